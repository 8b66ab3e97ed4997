// Command probe is the instance that the conformance suite of the drivers runs:
// the load tester, and a few ways to misbehave.
//
//	probe                 serves, and tells its arguments and environment at /probe
//	probe exit CODE       ends with CODE
//	probe silent          runs but never listens
//	probe stubborn        serves and ignores SIGTERM
//	probe family          serves with two children that ignore SIGTERM, one in its own session
//	probe chatter BYTES   writes so much to its log, then serves
package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sirocco-cloud/sirocco/libs/loadtester"
)

func main() {
	code, err := run(os.Args[0], os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// argument is the number behind the mode.
func argument(args []string) (int, error) {
	if len(args) < 2 {
		return 0, fmt.Errorf("%s needs a number", args[0])
	}
	return strconv.Atoi(args[1])
}

func run(self string, args []string) (code int, err error) {
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	mode := "serve"
	if len(args) > 0 {
		mode = args[0]
	}
	var children []int
	switch mode {
	case "exit":
		fmt.Println("probe: leaving")
		return argument(args)
	case "silent":
		fmt.Println("probe: silent")
		<-terminate
		return 0, nil
	case "orphan":
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	case "family":
		for _, session := range []bool{false, true} {
			child := exec.Command(self, "orphan") //nolint:gosec // it starts itself
			child.SysProcAttr = &syscall.SysProcAttr{Setsid: session}
			if err := child.Start(); err != nil {
				return 1, err
			}
			children = append(children, child.Process.Pid)
		}
	case "chatter":
		size, err := argument(args)
		if err != nil {
			return 1, err
		}
		line := strings.Repeat("x", 1023) + "\n"
		for n := 0; n < size; n += len(line) {
			fmt.Print(line)
		}
	}
	return 0, serve(args, children, terminate)
}

func serve(args []string, children []int, terminate <-chan os.Signal) error {
	mux := http.NewServeMux()
	mux.Handle("/", loadtester.New())
	mux.HandleFunc("/probe", func(w http.ResponseWriter, _ *http.Request) {
		directory, _ := os.Getwd()
		secrets, _ := os.ReadFile(cmp.Or(os.Getenv("SIROCCO_SECRETS_DIR"), "/var/secrets") + "/secrets.json") //nolint:gosec // the driver decides
		_ = json.NewEncoder(w).Encode(map[string]any{
			"args": args, "env": os.Environ(), "dir": directory, "children": children, "secrets": string(secrets),
		})
	})
	listener, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), cmp.Or(os.Getenv("PORT"), "8000")))
	if err != nil {
		return err
	}
	fmt.Println("probe: listening")
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		<-terminate
		fmt.Println("probe: terminated")
		_ = server.Close()
	}()
	_ = server.Serve(listener)
	return nil
}
