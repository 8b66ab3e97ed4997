package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
)

// commandTries is how often an order is tried before it becomes a dead letter. One that was delivered twice as often
// without an answer takes its process down each time, and becomes one untried.
const commandTries = 5

// Commands takes the orders to one node, one at a time, in order. A handler must make the order durable before it
// returns, because its return acknowledges it; the same order may come twice.
type Commands struct {
	conn          *Conn
	cluster, node string
	log           *zap.Logger
	handlers      map[string]func(context.Context, []byte) error
	cancel        context.CancelFunc
	done          chan struct{}
}

// NewCommands prepares the consumer of a node's orders.
func NewCommands(c *Conn, cluster, node string) *Commands {
	return &Commands{conn: c, cluster: cluster, node: node, log: c.log.Named("commands"), handlers: map[string]func(context.Context, []byte) error{}}
}

// OnCommand adds the handler of one verb.
func OnCommand[O any](s *Commands, cmd rpc.Command[O], h func(context.Context, O) error) {
	s.handlers[cmd.Subject(s.cluster, s.node)] = func(ctx context.Context, b []byte) error {
		var order O
		if err := json.Unmarshal(b, &order); err != nil {
			return problem.New(problem.BadRequest, "order %s does not decode: %v", cmd.Verb, err)
		}
		return h(ctx, order)
	}
}

// Start creates the consumer and begins in the background.
func (s *Commands) Start(ctx context.Context) error {
	open := func(ctx context.Context) (jetstream.Consumer, error) {
		return s.conn.js.CreateOrUpdateConsumer(ctx, "CMD", jetstream.ConsumerConfig{
			Durable: "node-" + subject.Token(s.cluster) + "-" + subject.Token(s.node), FilterSubject: subject.CommandsTo(s.cluster, s.node),
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: inHand,
			Replicas: s.conn.replicas, Description: "orders to node " + s.node,
		})
	}
	cons, err := open(ctx)
	if err != nil {
		return fmt.Errorf("consume commands: %w", err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		s.conn.pull(run, cons, open, func(m jetstream.Msg) { s.deliver(run, m) })
	}()
	return nil
}

// Stop ends after the order in hand.
func (s *Commands) Stop() {
	if s.cancel != nil {
		s.cancel()
		<-s.done
	}
}

func (s *Commands) deliver(ctx context.Context, m jetstream.Msg) {
	handle, known := s.handlers[m.Subject()]
	if !known {
		s.conn.bury(ctx, s.log, m, fmt.Errorf("no handler for %s", m.Subject()))
		return
	}
	meta, err := m.Metadata()
	if err != nil {
		s.conn.bury(ctx, s.log, m, err)
		return
	}
	if meta.NumDelivered > 2*commandTries {
		s.conn.bury(ctx, s.log, m, errors.New("the node never answered this order"))
		return
	}
	release := hold(m)
	defer release()
	if err = s.carryOut(ctx, handle, m.Data()); err == nil {
		ack(s.log, m)
		return
	}
	if ctx.Err() != nil {
		giveBack(m)
		return
	}
	if meta.NumDelivered >= commandTries {
		s.conn.bury(ctx, s.log, m, err)
		return
	}
	s.log.Warn("order failed, trying again", zap.String("subject", m.Subject()), zap.Uint64("try", meta.NumDelivered), zap.Error(err))
	if err := m.NakWithDelay(retryFirst << meta.NumDelivered); err != nil {
		s.log.Debug("nak not sent", zap.Error(err))
	}
}

// carryOut turns a panic of a handler into a failed try.
func (s *Commands) carryOut(ctx context.Context, handle func(context.Context, []byte) error, order []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("handler panicked", zap.Any("panic", p), zap.Stack("stack"))
			err = fmt.Errorf("handler panicked: %v", p)
		}
	}()
	return handle(ctx, order)
}
