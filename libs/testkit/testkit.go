// Package testkit gives tests the real things: a nats-server and a PostgreSQL database of their own, made in milliseconds
// and gone when the test ends. Nothing here is a mock. A service under test stands on a [Platform] over them, [Run] starts
// it, and the test plays its neighbours with servers of its own.
//
// A package that uses Database or DatabaseURL, and any other that wants to know about leaked goroutines, has
//
//	func TestMain(m *testing.M) { testkit.Main(m) }
package testkit

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Main runs the tests, gives back what they shared with other test processes, and fails when goroutines are left over.
func Main(m *testing.M, options ...goleak.Option) {
	code := m.Run()
	if err := releasePostgres(); err != nil {
		fmt.Fprintln(os.Stderr, "testkit:", err)
		code = max(code, 1)
	}
	// nats.go 1.55 leaves this one behind when an object is stored so quickly that its publisher closes before the
	// goroutine has begun; it then waits on a nil channel.
	options = append(options, goleak.IgnoreTopFunction("github.com/nats-io/nats.go/jetstream.(*jetStream).resetPendingAcksOnReconnect"))
	if code == 0 {
		// On a busy machine those that are about to end need longer than goleak waits by itself.
		err := goleak.Find(options...)
		for give := time.Now().Add(patience); err != nil && time.Now().Before(give); {
			err = goleak.Find(options...)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "testkit: goroutines left over:", err)
			code = 1
		}
	}
	os.Exit(code) //nolint:forbidigo // Main is the main function of a test binary
}
