package testkit

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Port is one that nobody takes while a server of the test is away: it lies below those that the system gives to whoever
// asks for any, and to connections that go out.
func Port(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 10_000 + rand.N(20_000)
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}
