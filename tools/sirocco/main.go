// Package main is sirocco: the command line of an operator, and with `sirocco up` the whole platform in one process.
//
// Every verb but up is a client of a gateway's HTTP API and nothing more. A verb is a constructor in the file of its
// noun; what it may touch of the machine comes in a [console], so that a test runs it as a user does.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first Ctrl-C asks, the second one ends the process at once.
	context.AfterFunc(ctx, stop)
	return execute(ctx, systemConsole(), os.Args[1:])
}
