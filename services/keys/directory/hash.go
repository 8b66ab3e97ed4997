package directory

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"golang.org/x/crypto/argon2"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// cost of one hash of a password or secret: Argon2id with 7 MiB and five passes, one of the settings that are reckoned
// equal in strength. It prefers passes to memory, because many sign-ins at once must not cost a small machine its memory.
type cost struct {
	memory  uint32 // KiB
	passes  uint32
	threads uint8
}

var standardCost = cost{memory: 7 << 10, passes: 5, threads: 1}

// Sizes of a hash in bytes.
const (
	saltSize   = 16
	digestSize = 32
)

const (
	// hashesAtOnce bounds the memory of hashing, in one replica, to as many times that of the cost.
	hashesAtOnce = 4
	// hashesWaiting bounds how many wait for a turn; more are told to come back, so that a flood of sign-ins does not
	// take the replica's handlers from everything else.
	hashesWaiting = 48
)

// hasher hashes and verifies, a few at a time.
type hasher struct {
	cost    cost
	random  io.Reader
	turns   chan struct{}
	waiting atomic.Int32
}

func newHasher() *hasher {
	return &hasher{cost: standardCost, random: rand.Reader, turns: make(chan struct{}, hashesAtOnce)}
}

// turn waits for one of the few places; the caller gives it back.
func (h *hasher) turn(ctx context.Context) (done func(), err error) {
	done = func() { <-h.turns }
	select {
	case h.turns <- struct{}{}:
		return done, nil
	default:
	}
	defer h.waiting.Add(-1)
	if h.waiting.Add(1) > hashesWaiting {
		p := problem.New(problem.Unavailable, "too many sign-ins at once; try again")
		p.RetryAfterSeconds = 1
		return nil, p
	}
	select {
	case h.turns <- struct{}{}:
		return done, nil
	case <-ctx.Done():
		return nil, problem.New(problem.Unavailable, "too many sign-ins at once; try again")
	}
}

// hash makes the stored form of a secret: parameters, salt and digest in the usual notation.
func (h *hasher) hash(ctx context.Context, secret string) (string, error) {
	done, err := h.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	salt := make([]byte, saltSize)
	if _, err := io.ReadFull(h.random, salt); err != nil {
		return "", fmt.Errorf("salt: %w", err)
	}
	return encodeHash(h.cost, salt, h.cost.derive(secret, salt)), nil
}

// nobodys is the hash that no secret has. Verifying against it costs what every verification costs, so the time of a
// refusal does not tell whether a name exists.
var nobodys = encodeHash(standardCost, make([]byte, saltSize), make([]byte, digestSize))

// matchesInTurn verifies a secret as soon as there is a turn.
func (h *hasher) matchesInTurn(ctx context.Context, secret, stored string) (bool, error) {
	done, err := h.turn(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	return h.matches(secret, stored), nil
}

// matches verifies a secret; the caller holds a turn. A hash that does not parse matches nothing, after the same work.
func (h *hasher) matches(secret, stored string) bool {
	c, salt, digest, ok := decodeHash(stored)
	if !ok {
		c, salt, digest, _ = decodeHash(nobodys)
	}
	return subtle.ConstantTimeCompare(c.derive(secret, salt), digest) == 1 && ok
}

func (c cost) derive(secret string, salt []byte) []byte {
	return argon2.IDKey([]byte(secret), salt, c.passes, c.memory, c.threads, digestSize)
}

func encodeHash(c cost, salt, digest []byte) string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, c.memory, c.passes, c.threads, b64(salt), b64(digest))
}

// bounds of the cost that a stored hash may ask for: a row that was tampered with must not take the machine.
const (
	maxMemory = 256 << 10
	maxPasses = 64
)

func decodeHash(stored string) (c cost, salt, digest []byte, ok bool) {
	parts := strings.Split(stored, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return c, nil, nil, false
	}
	n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.memory, &c.passes, &c.threads)
	if err != nil || n != 3 || c.memory == 0 || c.memory > maxMemory || c.passes == 0 || c.passes > maxPasses || c.threads == 0 {
		return c, nil, nil, false
	}
	salt, serr := base64.RawStdEncoding.DecodeString(parts[4])
	digest, derr := base64.RawStdEncoding.DecodeString(parts[5])
	if serr != nil || derr != nil || len(salt) < saltSize || len(digest) != digestSize {
		return c, nil, nil, false
	}
	return c, salt, digest, true
}
