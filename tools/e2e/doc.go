// Package e2e drives a whole Sirocco from outside: its binaries, its HTTP and gRPC doors, and signals, nothing else.
//
// Each test is a scenario that asserts what a user would notice: an answer, a status, how long something took, which
// processes run. Most share one all-in-one platform; those that kill, restart or take a platform apart start their own.
// The functions that they deploy are this very test binary under the process driver (container_test.go), so that a test
// can ask a function what happened to it.
//
//	make e2e                                          builds the binaries and runs everything
//	SIROCCO_BIN=$PWD/bin go test ./tools/e2e -run Scale   one scenario
//
// Without SIROCCO_BIN every test is skipped, so that go test ./... stays quick.
package e2e
