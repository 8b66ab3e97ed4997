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

	"github.com/sirocco-cloud/sirocco/libs/loadtester"
)

func main() {
	mode := "serve"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	var children []int
	switch mode {
	case "exit":
		fmt.Println("probe: leaving")
		code, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		os.Exit(code)
	case "silent":
		fmt.Println("probe: silent")
		<-terminate
		return
	case "orphan":
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
	case "family":
		for _, session := range []bool{false, true} {
			child := exec.Command(os.Args[0], "orphan")
			child.SysProcAttr = &syscall.SysProcAttr{Setsid: session}
			if err := child.Start(); err != nil {
				panic(err)
			}
			children = append(children, child.Process.Pid)
		}
	case "chatter":
		size, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		line := strings.Repeat("x", 1023) + "\n"
		for n := 0; n < size; n += len(line) {
			fmt.Print(line)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", loadtester.New())
	mux.HandleFunc("/probe", func(w http.ResponseWriter, _ *http.Request) {
		directory, _ := os.Getwd()
		secrets, _ := os.ReadFile(cmp.Or(os.Getenv("SIROCCO_SECRETS_DIR"), "/var/secrets") + "/secrets.json")
		_ = json.NewEncoder(w).Encode(map[string]any{
			"args": os.Args[1:], "env": os.Environ(), "dir": directory, "children": children, "secrets": string(secrets),
		})
	})
	listener, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), cmp.Or(os.Getenv("PORT"), "8000")))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("probe: listening")
	server := &http.Server{Handler: mux, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		<-terminate
		fmt.Println("probe: terminated")
		_ = server.Close()
	}()
	_ = server.Serve(listener)
}
