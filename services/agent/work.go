package agent

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/relay"
)

// workers takes the work of every version that this node runs. Work comes two ways: straight off core NATS when a slot
// is free, and from the version's queue when there was none. Queued work goes first: while a queue may hold something,
// direct offers are refused and join its end.
type workers struct {
	conn  *bus.Conn
	relay *relay.Server
	log   *zap.Logger

	mu       sync.Mutex
	versions map[string]*pool
	serving  sync.WaitGroup
	ctx      context.Context
	cancel   context.CancelFunc
}

func newWorkers(conn *bus.Conn, server *relay.Server, log *zap.Logger) *workers {
	ctx, cancel := context.WithCancel(context.Background())
	return &workers{conn: conn, relay: server, log: log, versions: map[string]*pool{}, ctx: ctx, cancel: cancel}
}

// lookEvery is how often a version's queue is looked into without a hint, because hints may be lost.
const lookEvery = 5 * time.Second

// pool is the instances of one version on this node, with their slots.
type pool struct {
	workers *workers
	version string

	mu      sync.Mutex
	members []*member
	queue   *bus.Queue

	// queued is set while the version's queue may hold work.
	queued  atomic.Bool
	hint    chan struct{}
	stops   []func()
	stopped chan struct{}
	cancel  context.CancelFunc
}

// member is one instance in service. Its slots are as many requests as it takes at once.
type member struct {
	pool     *pool
	instance *instance
	target   string
	slots    int

	// Guarded by pool.mu.
	busy   int
	paused bool
	empty  chan struct{} // closed when busy falls to 0 while somebody waits in idle
}

// join puts an instance into service.
func (w *workers) join(i *instance) *member {
	version := i.rec.Order.VersionID
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.versions[version]
	if p == nil {
		p = &pool{workers: w, version: version, hint: make(chan struct{}, 1), stopped: make(chan struct{})}
		w.versions[version] = p
		p.open()
	}
	m := &member{
		pool: p, instance: i, slots: max(i.rec.Order.MaxConcurrency, 1),
		target: "127.0.0.1:" + strconv.Itoa(i.rec.Function.Port),
	}
	p.mu.Lock()
	p.members = append(p.members, m)
	p.mu.Unlock()
	p.look()
	return m
}

// leave takes it out again; the last one closes the version's doors on this node.
func (w *workers) leave(m *member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := m.pool
	p.mu.Lock()
	for n, other := range p.members {
		if other == m {
			p.members = append(p.members[:n], p.members[n+1:]...)
			break
		}
	}
	last := len(p.members) == 0
	p.mu.Unlock()
	if last && w.versions[p.version] == p {
		delete(w.versions, p.version)
		p.close()
	}
}

// quiesce takes no new work and waits for what is in flight, for an agent that stops while its instances go on.
func (w *workers) quiesce(ctx context.Context) {
	w.mu.Lock()
	for _, p := range w.versions {
		p.mu.Lock()
		for _, m := range p.members {
			m.paused = true
		}
		p.mu.Unlock()
	}
	w.mu.Unlock()
	idle := make(chan struct{})
	go func() { w.serving.Wait(); close(idle) }()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// close cuts what is still in flight.
func (w *workers) close() {
	w.cancel()
	w.serving.Wait()
}

func (p *pool) open() {
	w := p.workers
	ctx, cancel := context.WithCancel(w.ctx)
	p.cancel = cancel
	for _, subscribe := range []func() (func(), error){
		func() (func(), error) { return w.conn.OnDirect(p.version, p.offered) },
		func() (func(), error) { return w.conn.OnHint(p.version, p.look) },
	} {
		stop, err := subscribe()
		if err != nil {
			w.log.Error("cannot take work", zap.String("version", p.version), zap.Error(err))
			continue
		}
		p.stops = append(p.stops, stop)
	}
	go func() {
		defer close(p.stopped)
		p.watchQueue(ctx)
	}()
}

func (p *pool) close() {
	for _, stop := range p.stops {
		stop()
	}
	p.cancel()
	<-p.stopped
}

// offered takes or refuses one direct offer. It runs on the subscription, so it never waits.
func (p *pool) offered(offer []byte) {
	call, err := p.workers.relay.Receive(offer)
	if err != nil {
		p.workers.log.Warn("offer does not decode", zap.Error(err))
		return
	}
	if p.queued.Load() {
		p.refuse(call)
		return
	}
	m := p.acquire()
	if m == nil {
		p.refuse(call)
		return
	}
	p.workers.serving.Add(1)
	go func() {
		defer p.workers.serving.Done()
		defer p.release(m)
		p.serve(m, call)
	}()
}

func (p *pool) refuse(call *relay.Call) {
	if err := call.Refuse(relay.Busy); err != nil {
		p.workers.log.Debug("refusal not sent", zap.Error(err))
	}
}

// acquire takes a slot of the least busy instance; nil when there is none.
func (p *pool) acquire() *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *member
	for _, m := range p.members {
		if m.paused || m.busy >= m.slots {
			continue
		}
		if best == nil || m.busy*best.slots < best.busy*m.slots {
			best = m
		}
	}
	if best != nil {
		best.busy++
	}
	return best
}

func (p *pool) release(m *member) {
	p.mu.Lock()
	m.busy--
	if m.busy == 0 && m.empty != nil {
		close(m.empty)
		m.empty = nil
	}
	p.mu.Unlock()
	if p.queued.Load() {
		p.look()
	}
}

// look asks for the queue to be looked into.
func (p *pool) look() {
	p.queued.Store(true)
	select {
	case p.hint <- struct{}{}:
	default:
	}
}

// watchQueue takes queued work whenever there may be some and a slot is free.
func (p *pool) watchQueue(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.hint:
		case <-ticker.C:
		}
		if err := p.takeQueued(ctx); err != nil && ctx.Err() == nil {
			p.workers.log.Warn("queue not read, trying again", zap.String("version", p.version), zap.Error(err))
			p.queue = nil
			sleep(ctx, 200*time.Millisecond)
		}
	}
}

// takeBatch is how many entries are taken at once.
const takeBatch = 64

// takeQueued fills free slots from the queue. Slots are reserved before entries are taken, so nothing is taken that
// cannot start; the flag is cleared before the look, so that a hint during it is not lost.
func (p *pool) takeQueued(ctx context.Context) error {
	for ctx.Err() == nil {
		var reserved []*member
		for len(reserved) < takeBatch {
			m := p.acquire()
			if m == nil {
				break
			}
			reserved = append(reserved, m)
		}
		if len(reserved) == 0 {
			return nil // the flag stays; a released slot looks again
		}
		p.queued.Store(false)
		work, err := p.take(ctx, len(reserved))
		for n, entry := range work {
			p.start(reserved[n], entry)
		}
		for _, m := range reserved[len(work):] {
			p.mu.Lock()
			m.busy--
			p.mu.Unlock()
		}
		if err != nil {
			p.queued.Store(!errors.Is(err, bus.ErrNoQueue))
			if errors.Is(err, bus.ErrNoQueue) {
				return nil
			}
			return err
		}
		if len(work) < len(reserved) {
			return nil
		}
		p.queued.Store(true) // a full batch: there may be more
	}
	return nil
}

func (p *pool) take(ctx context.Context, n int) ([]bus.Work, error) {
	if p.queue == nil {
		q, err := p.workers.conn.OpenQueue(ctx, p.version)
		if err != nil {
			return nil, err
		}
		p.queue = q
	}
	return p.queue.Take(n)
}

// start carries out one queued entry. Its client must still want it; then the entry is taken off the queue before the
// container is called, so that it is started once at most (invocation §4.5).
func (p *pool) start(m *member, entry bus.Work) {
	p.workers.serving.Add(1)
	go func() {
		defer p.workers.serving.Done()
		defer p.release(m)
		call, err := p.workers.relay.Receive(entry.Offer)
		if err == nil {
			claim, cancel := context.WithTimeout(p.workers.ctx, claimPatience)
			err = call.Claim(claim)
			cancel()
		}
		if done := entry.Done(); done != nil {
			p.workers.log.Debug("queue entry not acknowledged", zap.Error(done))
		}
		if err != nil {
			p.workers.log.Debug("queued request dropped", zap.Error(err))
			return
		}
		p.serve(m, call)
	}()
}

// claimPatience is how long a gateway may take to say that the client of a queued request is still there.
const claimPatience = 5 * time.Second

// serve calls the container for one exchange.
func (p *pool) serve(m *member, call *relay.Call) {
	err := p.workers.relay.Serve(p.workers.ctx, call, func(ctx context.Context, w *relay.Writer, r *relay.Request) error {
		trusted(r, m.instance)
		return relay.Proxy(ctx, m.instance.transport, m.target, w, r)
	})
	if err != nil {
		p.workers.log.Debug("exchange ended early", zap.String("version", p.version), zap.Error(err))
	}
}

// trusted writes the headers that containers rely on (invocation §5.2), in exactly this spelling.
func trusted(r *relay.Request, i *instance) {
	h := r.Header
	if h == nil {
		h = http.Header{}
		r.Header = h
	}
	h[invocation.HeaderRequestID] = []string{r.ID}
	for _, a := range r.Attributes {
		h[a.Name] = []string{a.Value}
	}
	if !r.Deadline.IsZero() {
		left := time.Until(r.Deadline.Add(-invocation.Grace)).Round(time.Second)
		h[invocation.HeaderPollSeconds] = []string{strconv.Itoa(max(int(left/time.Second), 0))}
	}
	h[invocation.HeaderInstanceType] = []string{i.rec.Order.InstanceType}
	h[invocation.HeaderBackend] = []string{i.agent.cfg.Cluster}
}

// pause takes an instance out of service without dropping what it does.
func (m *member) pause() {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	m.paused = true
}

// resume puts it back.
func (m *member) resume() {
	m.pool.mu.Lock()
	m.paused = false
	m.pool.mu.Unlock()
	m.pool.look()
}

// idle waits until nothing is in flight, while ctx lasts.
func (m *member) idle(ctx context.Context) {
	m.pool.mu.Lock()
	if m.busy == 0 {
		m.pool.mu.Unlock()
		return
	}
	if m.empty == nil {
		m.empty = make(chan struct{})
	}
	empty := m.empty
	m.pool.mu.Unlock()
	select {
	case <-empty:
	case <-ctx.Done():
	}
}
