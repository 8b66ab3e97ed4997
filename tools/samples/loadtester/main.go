// Command loadtester is the sample function: the load tester of
// libs/loadtester over HTTP and the Echo service over gRPC.
//
//	PORT       HTTP, HTTP/2 without TLS, and gRPC too; default 8000
//	GRPC_PORT  gRPC alone; default 8001 when PORT is not given, else none; 0 is none
//	HOST       address to listen on; default all
//
// SIGTERM lets calls in flight finish; a second one, or two minutes less a
// margin, ends them.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/sirocco-cloud/sirocco/libs/loadtester"
)

// drainFor stays below the grace of 120 s that the platform gives a container.
const drainFor = 110 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Getenv, stop, func(address string) { fmt.Println("listening on " + address) })
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadtester: "+err.Error())
		os.Exit(1)
	}
}

// run serves until ctx ends and what is in flight is done. again is called when
// draining begins; from then on a further signal ends the process. listening is
// told each address, HTTP first.
func run(ctx context.Context, getenv func(string) string, again func(), listening func(string)) error {
	host := getenv("HOST")
	httpListener, err := net.Listen("tcp", net.JoinHostPort(host, cmp.Or(getenv("PORT"), "8000")))
	if err != nil {
		return err
	}
	defer httpListener.Close()
	echo, err := newEchoServer()
	if err != nil {
		return err
	}
	// A stop while nothing drains any more; after a graceful one it does nothing.
	defer echo.Stop()
	server := &http.Server{
		Handler:           handler(echo, loadtester.New()),
		ReadHeaderTimeout: time.Minute,
		Protocols:         new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)

	servers, failed := errgroup.WithContext(ctx)
	servers.Go(func() error {
		if err := server.Serve(httpListener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	listening(httpListener.Addr().String())
	if port := grpcPort(getenv); port != "" {
		grpcListener, err := net.Listen("tcp", net.JoinHostPort(host, port))
		if err != nil {
			return errors.Join(err, server.Close(), servers.Wait())
		}
		servers.Go(func() error { return echo.Serve(grpcListener) })
		listening(grpcListener.Addr().String())
	}

	<-failed.Done()
	again()
	drain, cancel := context.WithTimeout(context.Background(), drainFor)
	defer cancel()
	// GracefulStop cannot be given a time; Stop ends it.
	detach := context.AfterFunc(drain, echo.Stop)
	defer detach()
	if err := server.Shutdown(drain); err != nil {
		_ = server.Close()
	}
	echo.GracefulStop()
	return servers.Wait()
}

// grpcPort is where gRPC listens besides PORT, or nothing. An operator who
// names PORT, as the process driver does, gets exactly that one port.
func grpcPort(getenv func(string) string) string {
	port := getenv("GRPC_PORT")
	if port == "" && getenv("PORT") == "" {
		port = "8001"
	}
	if port == "0" {
		return ""
	}
	return port
}

// handler tells gRPC from everything else by its content type.
func handler(echo *grpc.Server, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			echo.ServeHTTP(w, r)
			return
		}
		rest.ServeHTTP(w, r)
	})
}
