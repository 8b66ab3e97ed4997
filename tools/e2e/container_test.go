package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sirocco-cloud/sirocco/libs/loadtester"
)

// containerRole as first argument makes this binary the function that tests deploy.
const containerRole = "container"

// Ways in which a function can be broken.
const (
	exits   = "exits"   // writes a few lines and ends with status 3
	silent  = "silent"  // never listens
	ailing  = "ailing"  // answers its health check with 500
	healthy = "healthy" // works
)

// run is what POST /run asks for, report what it and GET /report answer.
type run struct {
	Milliseconds int `json:"ms"`
}

type report struct {
	PID int `json:"pid"`
	// Calls to /run so far, the most that ran at one time, how many were given up by their caller, and how many are done.
	Calls     int `json:"calls"`
	Most      int `json:"most"`
	Cancelled int `json:"cancelled"`
	Done      int `json:"done"`
	// Secrets is what the platform put into the secrets file.
	Secrets map[string]any `json:"secrets,omitempty"`
	// Accounts is the file of what belongs to the account: the secrets of telemetry endpoints.
	Accounts map[string]any `json:"accounts,omitempty"`
	// Exporter is where the platform says traces go to.
	Exporter string `json:"exporter,omitempty"`
	// Header, Method, URI are the request as it arrived.
	Header http.Header `json:"header,omitempty"`
	Method string      `json:"method,omitempty"`
	URI    string      `json:"uri,omitempty"`
}

type container struct {
	mu      sync.Mutex
	report  report
	running int
}

// runContainer is the main of a function.
func runContainer(args []string) int {
	flags := flag.NewFlagSet(containerRole, flag.ContinueOnError)
	mode := flags.String("mode", healthy, "how to behave")
	if flags.Parse(args) != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch *mode {
	case exits:
		fmt.Println("loading the model")
		fmt.Fprintln(os.Stderr, "fatal: the model file is corrupt")
		return 3
	case silent:
		fmt.Println("thinking about it")
		<-ctx.Done()
		return 0
	}
	c := &container{report: report{PID: os.Getpid()}}
	server := &http.Server{Handler: c.handler(*mode), ReadHeaderTimeout: time.Minute}
	l, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return 1
	}
	return 0
}

func (c *container) handler(mode string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", loadtester.New())
	if mode == ailing {
		mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Println("GET /health: the GPU is too hot")
			w.WriteHeader(http.StatusInternalServerError)
		})
	}
	mux.HandleFunc("POST /run", c.run)
	mux.HandleFunc("/report", func(w http.ResponseWriter, r *http.Request) {
		rep := c.now()
		rep.Header, rep.Method, rep.URI = r.Header, r.Method, r.RequestURI
		if b, err := os.ReadFile(os.Getenv("SIROCCO_SECRETS_DIR") + "/secrets.json"); err == nil {
			_ = json.Unmarshal(b, &rep.Secrets)
		}
		if b, err := os.ReadFile(os.Getenv("SIROCCO_SECRETS_DIR") + "/accounts-secrets.json"); err == nil {
			_ = json.Unmarshal(b, &rep.Accounts)
		}
		rep.Exporter = os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
		answerJSON(w, rep)
	})
	mux.HandleFunc("POST /mirror", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("/status/{code}", func(w http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.PathValue("code"))
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("NVCF-REQID", "forged")
		w.WriteHeader(code)
		fmt.Fprintf(w, "container says %d", code)
	})
	return mux
}

// run takes as long as it is asked to, unless its caller leaves.
func (c *container) run(w http.ResponseWriter, r *http.Request) {
	var asked run
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.running++
	c.report.Calls++
	c.report.Most = max(c.report.Most, c.running)
	c.mu.Unlock()
	finished := true
	select {
	case <-time.After(time.Duration(asked.Milliseconds) * time.Millisecond):
	case <-r.Context().Done():
		finished = false
	}
	c.mu.Lock()
	c.running--
	if !finished {
		c.report.Cancelled++
	} else {
		c.report.Done++
	}
	c.mu.Unlock()
	if finished {
		answerJSON(w, c.now())
	}
}

func (c *container) now() report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
