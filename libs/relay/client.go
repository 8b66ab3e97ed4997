package relay

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Client is the side of an exchange that asks. It is safe for concurrent use.
type Client struct {
	conn   *nats.Conn
	prefix string // of every inbox of this client, with the dot at its end
	beat   time.Duration

	mu        sync.Mutex
	exchanges map[string]*Exchange // by the last token of their inbox
	attached  uint64               // exchanges that Attach took up
	closed    bool
	sub       *nats.Subscription
	quit      chan struct{}
	running   sync.WaitGroup // the keep-alive goroutine and every upload
}

// NewClient returns a client that waits for answers on a private inbox of conn. Start it before use.
func NewClient(conn *nats.Conn) (*Client, error) {
	if conn == nil {
		return nil, fmt.Errorf("relay: no connection")
	}
	return &Client{
		conn: conn, prefix: conn.NewInbox() + ".", beat: beat,
		exchanges: make(map[string]*Exchange), quit: make(chan struct{}),
	}, nil
}

// Start subscribes to the inbox and begins to send keep-alive frames.
func (c *Client) Start(ctx context.Context) error {
	sub, err := subscribe(ctx, c.conn, c.prefix, c.receive)
	if err != nil {
		return err
	}
	c.sub = sub
	c.running.Go(func() { every(c.beat, c.quit, c.sweep) })
	return nil
}

// Close cancels every exchange with [ErrClosed] and waits for their uploads, at most as long as ctx.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	close(c.quit)
	c.mu.Unlock()
	for _, ex := range c.all() {
		ex.abort(ErrClosed, true)
	}
	if c.sub != nil {
		_ = c.sub.Unsubscribe()
	}
	return wait(ctx, &c.running)
}

// receive is the subscription callback: it must not block.
func (c *Client) receive(m *nats.Msg) {
	c.mu.Lock()
	ex := c.exchanges[token(m.Subject)]
	c.mu.Unlock()
	if ex != nil {
		ex.receive(m.Reply, m.Data, noResponders(m))
		return
	}
	// A worker that takes an exchange or keeps one alive must know that nobody is here for it any more.
	if m.Reply != "" && len(m.Data) > 0 && (kind(m.Data[0]) == kindAccept || kind(m.Data[0]) == kindPing) {
		_ = c.conn.Publish(m.Reply, signal(kindGone))
	}
}

func (c *Client) register(ex *Exchange) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ErrClosed
	}
	if _, taken := c.exchanges[ex.token]; taken {
		return fmt.Errorf("relay: exchange %s is open already", ex.id)
	}
	c.exchanges[ex.token] = ex
	return nil
}

func (c *Client) forget(ex *Exchange) {
	c.mu.Lock()
	if c.exchanges[ex.token] == ex {
		delete(c.exchanges, ex.token)
	}
	c.mu.Unlock()
}

// begin counts an upload in, unless the client is closing.
func (c *Client) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running.Add(1)
	return true
}

func (c *Client) all() []*Exchange {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]*Exchange, 0, len(c.exchanges))
	for _, ex := range c.exchanges {
		all = append(all, ex)
	}
	return all
}

func (c *Client) sweep() {
	for _, ex := range c.all() {
		ex.tick()
	}
}

// subscribe owns all subjects below prefix. The pending limits are lifted because credit bounds what can be pending,
// and because a message that the library drops would break an exchange.
func subscribe(ctx context.Context, conn *nats.Conn, prefix string, receive nats.MsgHandler) (*nats.Subscription, error) {
	sub, err := conn.Subscribe(prefix+"*", receive)
	if err != nil {
		return nil, fmt.Errorf("relay: subscribe: %w", err)
	}
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return nil, fmt.Errorf("relay: subscribe: %w", err)
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
	}
	// The server must know the subscription before anybody can be told the address.
	if err := conn.FlushWithContext(ctx); err != nil {
		_ = sub.Unsubscribe()
		return nil, fmt.Errorf("relay: subscribe: %w", err)
	}
	return sub, nil
}

// noResponders reports whether the NATS server says that nobody got the message that m answers.
func noResponders(m *nats.Msg) bool {
	return len(m.Data) == 0 && m.Header != nil && m.Header.Get("Status") == "503"
}

// every calls f at each interval until quit is closed.
func every(interval time.Duration, quit <-chan struct{}, f func()) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			f()
		case <-quit:
			return
		}
	}
}

// wait waits for g, at most as long as ctx.
func wait(ctx context.Context, g *sync.WaitGroup) error {
	done := make(chan struct{})
	go func() { g.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("relay: close: %w", context.Cause(ctx))
	}
}
