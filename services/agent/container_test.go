package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/fx"

	"github.com/sirocco-cloud/sirocco/libs/app"
	"github.com/sirocco-cloud/sirocco/libs/loadtester"
	"github.com/sirocco-cloud/sirocco/libs/testkit"
)

// The test binary is also the container that the process driver runs and the agent process that is killed.
const (
	roleContainer = "be-a-container"
	roleAgent     = "be-an-agent"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case roleContainer:
			beContainer(os.Args[2:])
			return
		case roleAgent:
			fx.New(app.Node("agent"), Module).Run()
			return
		}
	}
	testkit.Main(m)
}

// beContainer is a function container. Its arguments say how it behaves.
func beContainer(args []string) {
	behaviour := "serve"
	if len(args) > 0 {
		behaviour = args[0]
	}
	switch behaviour {
	case "crash":
		fmt.Println("loading the model")
		secrets, _ := os.ReadFile(filepath.Join(os.Getenv("SIROCCO_SECRETS_DIR"), "secrets.json"))
		fmt.Println("secrets are", string(secrets))
		fmt.Println("no such weights: llama")
		os.Exit(3)
	case "mute":
		select {}
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	c := &container{args: args}
	c.released, c.release = context.WithCancel(context.Background())
	server := &http.Server{
		Handler: c.handler(), ReadHeaderTimeout: time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, tapKey{}, c) },
	}
	if behaviour == "grpc" {
		server.Protocols = new(http.Protocols)
		server.Protocols.SetUnencryptedHTTP2(true)
	} else {
		listener = tap{listener}
	}
	fmt.Println("serving")
	fmt.Println(server.Serve(listener))
}

type container struct {
	args          []string
	sick          atomic.Bool
	release       func() // lets all work go on that was to be held
	released      context.Context
	mu            sync.Mutex
	now, max, all int
	served        []string // bodies of /work, in the order in which they came
}

func (c *container) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", loadtester.New())
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if c.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/grpc.health.v1.Health/Check", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 2, 8, 1})
		w.Header().Set("Grpc-Status", "0")
	})
	mux.HandleFunc("/sick", func(http.ResponseWriter, *http.Request) { c.sick.Store(true) })
	mux.HandleFunc("/well", func(http.ResponseWriter, *http.Request) { c.sick.Store(false) })
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) {
		fmt.Println("asked to exit")
		os.Exit(7)
	})
	mux.HandleFunc("/self", func(w http.ResponseWriter, _ *http.Request) {
		secrets, _ := os.ReadFile(filepath.Join(os.Getenv("SIROCCO_SECRETS_DIR"), "secrets.json"))
		_ = json.NewEncoder(w).Encode(self{PID: os.Getpid(), Port: os.Getenv("PORT"), Args: c.args, Env: os.Environ(), Secrets: string(secrets)})
	})
	mux.HandleFunc("/head", func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(r.Context().Value(tapKey{}).(*tapConn).head())
	})
	mux.HandleFunc("/release", func(http.ResponseWriter, *http.Request) { c.release() })
	mux.HandleFunc("/work", c.work)
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		_ = json.NewEncoder(w).Encode(stats{Now: c.now, Max: c.max, All: c.all, Served: c.served})
	})
	return mux
}

type self struct {
	PID     int
	Port    string
	Args    []string
	Env     []string
	Secrets string
}

type stats struct {
	Now, Max, All int
	Served        []string
}

// work takes as many milliseconds as its query says, or until the container is told to release what it holds, and
// counts how much of it goes on at once.
func (c *container) work(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.now++
	c.all++
	c.max = max(c.max, c.now)
	c.served = append(c.served, r.URL.Query().Get("name"))
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.now--
		c.mu.Unlock()
	}()
	ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
	over := time.After(time.Duration(ms) * time.Millisecond)
	var released <-chan struct{}
	if r.URL.Query().Has("hold") {
		over, released = nil, c.released.Done()
	}
	select {
	case <-over:
	case <-released:
	case <-r.Context().Done():
		return
	}
	_, _ = w.Write([]byte(os.Getenv("SIROCCO_INSTANCE_ID")))
}

// tap keeps the bytes of each connection, because net/http forgets how headers were spelt.
type tap struct{ net.Listener }

func (t tap) Accept() (net.Conn, error) {
	c, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &tapConn{Conn: c}, nil
}

type tapConn struct {
	net.Conn
	mu   sync.Mutex
	seen bytes.Buffer
}

func (c *tapConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	c.seen.Write(p[:n])
	c.mu.Unlock()
	return n, err
}

func (c *tapConn) head() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := c.seen.String()
	return []byte(text[strings.LastIndex(text, " /head"):])
}

type tapKey struct{}
