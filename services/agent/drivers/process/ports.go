package process

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/coder/quartz"

	"github.com/sirocco-cloud/sirocco/services/agent/drivers"
)

// reserveFor is how long a port is kept for a process that has not bound it
// yet. After that the test of binding it is enough.
const reserveFor = 10 * time.Minute

// portRange hands out loopback ports, no port twice at a time.
type portRange struct {
	first, last int
	clock       quartz.Clock

	mu    sync.Mutex
	given map[int]time.Time
}

// take returns n ports that nobody listens on now. It starts at a random place,
// so that two agents on one machine rarely try the same one.
func (r *portRange) take(n int) ([]int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now()
	for port, at := range r.given {
		if now.Sub(at) > reserveFor {
			delete(r.given, port)
		}
	}
	size := r.last - r.first + 1
	if size < 1 {
		return nil, errors.New("the port range of the process driver is empty")
	}
	var ports []int
	start := rand.IntN(size)
	for k := range size {
		port := r.first + (start+k)%size
		if _, taken := r.given[port]; taken || !bindable(port) {
			continue
		}
		r.given[port] = now
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	for _, port := range ports {
		delete(r.given, port)
	}
	return nil, fmt.Errorf("no free port between %d and %d", r.first, r.last)
}

// bindable tries all addresses, as a program that ignores HOST would.
func bindable(port int) bool {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

func (r *portRange) giveBack(h drivers.Handle) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, address := range h.Ports {
		if _, text, err := net.SplitHostPort(address); err == nil {
			if port, err := strconv.Atoi(text); err == nil {
				delete(r.given, port)
			}
		}
	}
}
