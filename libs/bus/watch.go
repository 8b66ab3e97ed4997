package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/event"
)

// lookEvery is how often a watch makes sure that its stream is still the one that it began with.
const lookEvery = 5 * time.Second

// Watch calls fn for every event of a domain that is stored after it returns, in order, until stop is called, also
// over an outage of the server. It keeps nothing: it is for caches that an event makes stale. fn must be quick.
//
// A server that comes back with another stream, because it has lost its files, may have taken events with it that nobody
// saw. The watch notices, begins again with the first event of the new stream, and calls gaps: what was learned from
// events is to be learned anew. fn and gaps are called one at a time.
func (c *Conn) Watch(ctx context.Context, domain string, fn func(event.Envelope), gaps ...func()) (stop func(), err error) {
	s, err := c.js.Stream(ctx, event.StreamOf(domain))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", domain, err)
	}
	w := &watch{conn: c, domain: domain, fn: fn, gaps: gaps, began: s.CachedInfo().Created, last: s.CachedInfo().State.LastSeq}
	if w.end, err = c.follow(ctx, domain, after(w.last), w.serial(fn)); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	status := c.nc.StatusChanged(nats.CONNECTED)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.keep(run, status)
	}()
	return func() {
		cancel()
		<-done
		c.nc.RemoveStatusListener(status)
		w.end()
	}, nil
}

// after begins behind a sequence number. It is a number, not "new": a consumer that is made anew before it has seen
// anything would skip what came in between.
func after(sequence uint64) jetstream.OrderedConsumerConfig {
	return jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: sequence + 1}
}

// watch is one call of Watch.
type watch struct {
	conn   *Conn
	domain string
	fn     func(event.Envelope)
	gaps   []func()
	end    func()
	// began is when the stream was made, and last the highest number seen in it: the same stream never has another
	// beginning nor a lower number.
	began time.Time
	last  uint64

	mu sync.Mutex // held while fn or one of gaps runs
}

func (w *watch) serial(fn func(event.Envelope)) func(event.Envelope) {
	return func(env event.Envelope) {
		w.mu.Lock()
		defer w.mu.Unlock()
		fn(env)
	}
}

// keep looks after every reconnection, and now and then, because a stream can also be deleted.
func (w *watch) keep(ctx context.Context, connected <-chan nats.Status) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-connected:
			if !open { // the connection has ended
				return
			}
		case <-tick.C:
		}
		try, cancel := context.WithTimeout(ctx, lookEvery)
		if err := w.look(try); err != nil && ctx.Err() == nil {
			w.conn.log.Debug("watched stream not seen", zap.String("domain", w.domain), zap.Error(err))
		}
		cancel()
	}
}

// look begins again when the stream is not the one that the watch has followed so far.
func (w *watch) look(ctx context.Context) error {
	name := event.StreamOf(w.domain)
	s, err := w.conn.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if err = w.conn.restore(ctx); err == nil {
			s, err = w.conn.js.Stream(ctx, name)
		}
	}
	if err != nil {
		return err
	}
	info := s.CachedInfo()
	if info.Created.Equal(w.began) && info.State.LastSeq >= w.last {
		w.last = info.State.LastSeq
		return nil
	}
	w.end()
	w.end = func() {}
	end, err := w.conn.follow(ctx, w.domain, after(0), w.serial(w.fn))
	if err != nil {
		w.began = time.Time{} // look again
		return err
	}
	w.conn.log.Warn("a watched stream was made anew, what it told is learned again", zap.String("stream", name))
	w.end, w.began, w.last = end, info.Created, info.State.LastSeq
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, gap := range w.gaps {
		gap()
	}
	return nil
}

// WatchLatest first delivers the last event of every subject of the domain and then those that are stored, until stop is
// called.
func (c *Conn) WatchLatest(ctx context.Context, domain string, fn func(event.Envelope)) (stop func(), err error) {
	return c.follow(ctx, domain, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy}, fn)
}

func (c *Conn) follow(ctx context.Context, domain string, from jetstream.OrderedConsumerConfig, fn func(event.Envelope)) (func(), error) {
	cons, err := c.js.OrderedConsumer(ctx, event.StreamOf(domain), from)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", domain, err)
	}
	cc, err := cons.Consume(func(m jetstream.Msg) {
		var env event.Envelope
		if err := json.Unmarshal(m.Data(), &env); err != nil {
			c.log.Error("not an event", zap.String("subject", m.Subject()), zap.Error(err))
			return
		}
		fn(env)
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", domain, err)
	}
	return func() { cc.Stop(); <-cc.Closed() }, nil
}

// As decodes the payload of an envelope when it is of the type of e; ok is false for any other event.
func As[P any](env event.Envelope, typ interface{ Type() string }) (p P, ok bool) {
	if env.Type != typ.Type() || json.Unmarshal(env.Data, &p) != nil {
		return p, false
	}
	return p, true
}
