package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sirocco-cloud/sirocco/contracts/event"
)

const deadLetters = "DLQ"

// Declare makes the named streams exist: those that owner owns are created or brought up to date, others are created
// when missing, so that services may start in any order. The dead letters always exist: whoever consumes may need them.
func (c *Conn) Declare(ctx context.Context, owner string, names ...string) error {
	for _, s := range event.Streams {
		own := s.Owner == owner
		if !own && s.Name != deadLetters && !slices.Contains(names, s.Name) {
			continue
		}
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
