package agent

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
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
	pace  *pace

	mu       sync.Mutex
	versions map[string]*pool
	serving  sync.WaitGroup // slots in use
	ctx      context.Context
	cancel   context.CancelFunc
}

func newWorkers(a *Agent) *workers {
	ctx, cancel := context.WithCancel(context.Background())
	return &workers{
		conn: a.conn, relay: a.relay, log: a.log, pace: &a.pace,
		versions: map[string]*pool{}, ctx: ctx, cancel: cancel,
	}
}

// pool is the instances of one version on this node, with their slots.
type pool struct {
	workers *workers
	version string

	mu      sync.Mutex
	members []*member

	// queued is set while the version's queue may hold work.
	queued  atomic.Bool
	hint    chan struct{}
	queue   *bus.Queue // of watchQueue alone
	stops   []func()
	cancel  context.CancelFunc
	stopped chan struct{}
}

// member is one instance in service. Its slots are as many requests as it takes at once.
type member struct {
	pool     *pool
	instance *instance
	target   string
	slots    int

	// Guarded by pool.mu. Of the busy slots, those that are working carry a request; the others are kept for one that the
	// queue may have.
	busy    int
	working int
	paused  bool
	// restsFrom is when the last request was over. Once its rest was told, the next one sends to roused.
	restsFrom time.Time
	restTold  bool
	roused    chan struct{}
	// finishing instances take what is queued and nothing new.
	finishing bool
	empty     chan struct{} // closed when busy falls to 0 while somebody waits for that
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
		target:    "127.0.0.1:" + strconv.Itoa(i.rec.Function.Port),
		restsFrom: time.Now(), roused: make(chan struct{}, 1),
	}
	p.mu.Lock()
	p.members = append(p.members, m)
	p.mu.Unlock()
	p.look()
	return m
}

// leave takes it out again; the last one closes the version's doors on this node. What the instance still does goes on.
func (w *workers) leave(m *member) {
	p := m.pool
	w.mu.Lock()
	p.mu.Lock()
	p.members = slices.DeleteFunc(p.members, func(other *member) bool { return other == m })
	last := len(p.members) == 0
	p.mu.Unlock()
	if last {
		delete(w.versions, p.version)
	}
	w.mu.Unlock()
	if last {
		p.close()
	}
}

// quiesce takes no new work and waits for what is in flight, for an agent that stops while its instances go on.
func (w *workers) quiesce(ctx context.Context) {
	var all []*member
	w.mu.Lock()
	for _, p := range w.versions {
		p.mu.Lock()
		all = append(all, p.members...)
		p.mu.Unlock()
	}
	w.mu.Unlock()
	for _, m := range all {
		m.pause()
	}
	for _, m := range all {
		select {
		case <-m.idle():
		case <-ctx.Done():
			return
		}
	}
}

// close cuts what is still in flight. Every instance has left by now, so no slot is taken any more.
func (w *workers) close() {
	w.cancel()
	w.serving.Wait()
}

func (p *pool) open() {
	w := p.workers
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
	ctx, cancel := context.WithCancel(w.ctx)
	p.cancel = cancel
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
	m := p.acquire(false)
	if m == nil {
		p.refuse(call)
		return
	}
	go func() {
		defer p.release(m)
		p.serve(m, call)
	}()
}

func (p *pool) refuse(call *relay.Call) {
	if err := call.Refuse(relay.Busy); err != nil {
		p.workers.log.Debug("refusal not sent", zap.Error(err))
	}
}

// acquire takes a slot of the least busy instance, for queued or new work; nil when there is none.
func (p *pool) acquire(queued bool) *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *member
	for _, m := range p.members {
		if m.paused || m.finishing && !queued || m.busy >= m.slots {
			continue
		}
		if best == nil || m.busy*best.slots < best.busy*m.slots {
			best = m
		}
	}
	if best != nil {
		best.busy++
		if !queued {
			best.begin()
		}
		p.workers.serving.Add(1)
	}
	return best
}

// free gives a slot back that was not used, or not any more.
func (p *pool) free(m *member, used bool) {
	defer p.workers.serving.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	m.busy--
	if used {
		m.rest()
	}
	if m.busy == 0 && m.empty != nil {
		close(m.empty)
		m.empty = nil
	}
}

// release gives a slot back to whoever waits for one.
func (p *pool) release(m *member) {
	p.free(m, true)
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
	ticker := time.NewTicker(p.workers.pace.lookEvery)
	defer ticker.Stop()
	for {
		batch := takeBatch
		select {
		case <-ctx.Done():
			return
		case <-p.hint:
		case <-ticker.C:
			batch = 1 // a look without a reason must not keep direct offers out
		}
		if err := p.takeQueued(ctx, batch); err != nil && ctx.Err() == nil {
			p.workers.log.Warn("queue not read, trying again", zap.String("version", p.version), zap.Error(err))
			p.queue = nil
			sleep(ctx, 200*time.Millisecond)
			p.look()
		}
	}
}

// takeBatch is how many entries are taken at once.
const takeBatch = 64

// takeQueued fills free slots from the queue. Slots are reserved before entries are taken, so nothing is taken that
// cannot start; the flag is cleared before the look, so that a hint during it is not lost.
func (p *pool) takeQueued(ctx context.Context, batch int) error {
	for ctx.Err() == nil {
		var reserved []*member
		for len(reserved) < batch {
			m := p.acquire(true)
			if m == nil {
				break
			}
			reserved = append(reserved, m)
		}
		if len(reserved) == 0 {
			p.queued.Store(true) // the next slot that gets free looks again
			return nil
		}
		p.queued.Store(false)
		work, err := p.take(ctx, len(reserved))
		for n, entry := range work {
			p.start(reserved[n], entry)
		}
		for _, m := range reserved[len(work):] {
			p.free(m, false)
		}
		switch {
		case errors.Is(err, bus.ErrNoQueue):
			p.queue = nil
			return nil
		case err != nil:
			p.queued.Store(true)
			return err
		case len(work) < len(reserved):
			return nil
		}
		p.queued.Store(true) // a full batch: there may be more
		batch = takeBatch
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
	p.mu.Lock()
	m.begin()
	p.mu.Unlock()
	go func() {
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

// trusted writes the headers that containers rely on (invocation §5.2), in exactly this spelling, and drops what a
// client may have written under such a name.
func trusted(r *relay.Request, i *instance) {
	h := r.Header
	if h == nil {
		h = http.Header{}
		r.Header = h
	}
	for name := range h {
		if len(name) > len(trustedPrefix) && strings.EqualFold(name[:len(trustedPrefix)], trustedPrefix) {
			delete(h, name)
		}
	}
	for _, a := range r.Attributes {
		h[a.Name] = []string{a.Value}
	}
	h[invocation.HeaderRequestID] = []string{r.ID}
	if !r.Deadline.IsZero() {
		left := time.Until(r.Deadline.Add(-invocation.Grace)).Round(time.Second)
		h[invocation.HeaderPollSeconds] = []string{strconv.Itoa(max(int(left/time.Second), 0))}
	}
	h[invocation.HeaderInstanceType] = []string{i.rec.Order.InstanceType}
	h[invocation.HeaderBackend] = []string{i.agent.cfg.Cluster}
}

// trustedPrefix begins the names of headers that only the platform writes.
const trustedPrefix = "NVCF-"

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

// finish makes the instance take what is queued and nothing new.
func (m *member) finish() {
	m.pool.mu.Lock()
	m.finishing = true
	m.pool.mu.Unlock()
	m.pool.look()
}

// finished reports that nothing is in flight and the queue was found empty. A look into the queue takes its slot before
// it clears the flag, so under the lock the two never both miss an entry.
func (m *member) finished() bool {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.busy == 0 && !m.pool.queued.Load()
}

// idle is closed when nothing is in flight.
func (m *member) idle() <-chan struct{} {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	empty := m.empty
	if empty == nil {
		empty = make(chan struct{})
		if m.busy == 0 {
			close(empty)
		} else {
			m.empty = empty
		}
	}
	return empty
}
