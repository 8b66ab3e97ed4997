package directory

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// The brake on guessing (keys §9.1): after freeFailures wrong secrets for one name within failureWindow the name is
// blocked, first for firstBlock, and for twice as long with every further failure.
const (
	freeFailures  = 5
	failureWindow = 5 * time.Minute
	firstBlock    = 5 * time.Second
	longestBlock  = 15 * time.Minute
)

// mark is under which failures are counted: a digest, because the name that was typed may be a password by mistake.
type mark struct {
	digest [sha256.Size]byte
	kind   kind
	// subject is whose name it is, nil for nobody's.
	subject *string
}

// markOf counts all names of one subject together, and a name that is nobody's by itself.
func markOf(k kind, name string, who *subject) mark {
	m := mark{kind: k}
	text := "name\x1f" + strings.ToLower(name)
	if who != nil {
		m.subject = &who.id
		text = "id\x1f" + who.id
	}
	m.digest = sha256.Sum256([]byte(string(k) + "\x1f" + text))
	return m
}

// admit refuses a name that is blocked, whether or not it is anybody's.
func (d *Directory) admit(ctx context.Context, m mark, now time.Time) error {
	until, err := d.store.blockedUntil(ctx, m)
	if err != nil || !now.Before(until) {
		return err
	}
	p := problem.New(problem.BadRequest, "too many failed sign-ins; try again later")
	p.RetryAfterSeconds = int((until.Sub(now) + time.Second - 1) / time.Second)
	return p
}

// tally is what is remembered of the failures under one mark.
type tally struct {
	failures     int
	firstAt      time.Time
	blockedUntil time.Time
}

// after adds a failure. A window or a block that has passed long enough starts the count anew.
func (t tally) after(now time.Time) tally {
	over := now.Sub(t.firstAt) > failureWindow
	if t.failures >= freeFailures {
		over = now.Sub(t.blockedUntil) > failureWindow
	}
	if t.failures == 0 || over {
		t = tally{firstAt: now}
	}
	t.failures++
	if t.failures >= freeFailures {
		block := longestBlock
		if doublings := t.failures - freeFailures; doublings < 16 {
			block = min(firstBlock<<doublings, longestBlock)
		}
		t.blockedUntil = now.Add(block)
	}
	return t
}
