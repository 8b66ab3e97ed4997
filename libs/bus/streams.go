package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
)

const deadLetters = "DLQ"

// Declare makes the named streams exist: those that owner owns are created or brought up to date, others are created
// when missing, so that services may start in any order. The dead letters always exist: whoever consumes may need them.
//
// A server that comes back without its files has no streams either. They are made again as soon as somebody who declared
// them publishes, consumes or watches.
func (c *Conn) Declare(ctx context.Context, owner string, names ...string) error {
	c.mu.Lock()
	c.declared[owner] = slices.Compact(slices.Sorted(slices.Values(slices.Concat(c.declared[owner], names))))
	c.mu.Unlock()
	return c.declare(ctx, owner, names)
}

// restore makes the declared streams exist again, after one of them was found to be gone.
func (c *Conn) restore(ctx context.Context) error {
	c.mu.Lock()
	declared := maps.Clone(c.declared)
	c.mu.Unlock()
	for _, s := range event.Streams {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(declared)), func(owner string) bool { return concerns(s, owner, declared[owner]) }) {
			continue
		}
		_, err := c.js.Stream(ctx, s.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			if _, err = c.js.CreateStream(ctx, c.streamConfig(s)); err == nil {
				c.log.Error("NATS had lost a stream, it was made again; what only the stream held is lost", zap.String("stream", s.Name))
			}
		}
		if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return fmt.Errorf("make stream %s again: %w", s.Name, err)
		}
	}
	return nil
}

// concerns reports whether a stream is among those that owner declares together with the named ones.
func concerns(s event.Stream, owner string, names []string) bool {
	return s.Owner == owner || s.Name == deadLetters || slices.Contains(names, s.Name)
}

func (c *Conn) declare(ctx context.Context, owner string, names []string) error {
	for _, s := range event.Streams {
		if !concerns(s, owner, names) {
			continue
		}
		own := s.Owner == owner
		cfg := c.streamConfig(s)
		var err error
		if own {
			_, err = c.js.CreateOrUpdateStream(ctx, cfg)
		} else if _, err = c.js.Stream(ctx, s.Name); errors.Is(err, jetstream.ErrStreamNotFound) {
			_, err = c.js.CreateStream(ctx, cfg)
		}
		if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return fmt.Errorf("declare stream %s: %w", s.Name, err)
		}
	}
	return nil
}

func (c *Conn) streamConfig(s event.Stream) jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{
		Name: s.Name, Description: s.Description, Subjects: s.Subjects,
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld,
		MaxAge: s.MaxAge, MaxBytes: s.MaxBytes, MaxMsgSize: MaxPayload, MaxMsgs: -1,
		Duplicates: s.Duplicates, Replicas: c.replicas, AllowDirect: true,
		Metadata: map[string]string{"owner": s.Owner, "contract": "1"},
	}
	if s.WorkQueue {
		cfg.Retention, cfg.Discard = jetstream.WorkQueuePolicy, jetstream.DiscardNew
	}
	return cfg
}
