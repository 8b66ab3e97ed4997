// Command bench compares a call through Sirocco with the same call through net/http/httputil.ReverseProxy, on this
// machine, in interleaved rounds, so that whatever else the machine does falls on both alike.
//
// Both ways end at a load tester in a process of its own and begin at the same clients here; in between stands either a
// plain reverse proxy in a process of its own, or Sirocco with its key check, its routing and its node agent: as one
// process (sirocco up), and as one process per service with NATS between them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/libs/loadtester"
	"github.com/sirocco-cloud/sirocco/libs/store/private"
	"github.com/sirocco-cloud/sirocco/tools/stack"
)

// body is the echo request of every call.
const body = `{"message":"0123456789abcdef0123456789abcdef","repeats":8}`

func main() {
	role := flag.String("role", "", "internal: backend or proxy")
	listen := flag.String("listen", "", "internal: address of the role")
	target := flag.String("target", "", "internal: where the proxy forwards to")
	bin := flag.String("bin", "bin", "folder of the binaries")
	rounds := flag.Int("rounds", 5, "interleaved rounds")
	each := flag.Duration("each", 2*time.Second, "time per measurement")
	form := flag.String("form", "both", "one, separate or both")
	flag.Parse()
	var err error
	switch *role {
	case "backend":
		err = serve(*listen, loadtester.New())
	case "proxy":
		err = proxy(*listen, *target)
	default:
		err = run(*bin, *rounds, *each, *form)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func serve(addr string, h http.Handler) error {
	return (&http.Server{Addr: addr, Handler: h, ReadHeaderTimeout: 5 * time.Second}).ListenAndServe()
}

// proxy is what Sirocco is compared with: Go's own reverse proxy with a connection pool that does not churn.
func proxy(addr, target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	p := httputil.NewSingleHostReverseProxy(u)
	p.Transport = &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
	return serve(addr, p)
}

// way is one path from the clients to the load tester.
type way struct {
	name string
	req  func(ctx context.Context) (*http.Request, error)
}

func run(bin string, rounds int, each time.Duration, form string) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sirocco-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // PostgreSQL, which does not run as root, passes through
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	direct, stopProxy, err := startProxy(ctx)
	if err != nil {
		return err
	}
	defer stopProxy()
	forms := map[string]func(context.Context, string, string) (way, func(), error){"one": oneProcess, "separate": separate}
	for _, name := range []string{"one", "separate"} {
		if form != "both" && form != name {
			continue
		}
		sirocco, stop, err := forms[name](ctx, bin, filepath.Join(dir, name))
		if err != nil {
			return err
		}
		err = compare(ctx, name, direct, sirocco, rounds, each)
		stop()
		if err != nil {
			return err
		}
	}
	return nil
}

func startProxy(ctx context.Context) (way, func(), error) {
	self, err := os.Executable()
	if err != nil {
		return way{}, nil, err
	}
	var addrs [2]string
	for i := range addrs {
		port, err := stack.FreePort()
		if err != nil {
			return way{}, nil, err
		}
		addrs[i] = fmt.Sprintf("127.0.0.1:%d", port)
	}
	backend := exec.CommandContext(ctx, self, "-role", "backend", "-listen", addrs[0])
	front := exec.CommandContext(ctx, self, "-role", "proxy", "-listen", addrs[1], "-target", "http://"+addrs[0])
	stop := func() {
		for _, c := range []*exec.Cmd{front, backend} {
			if c.Process != nil {
				_ = c.Process.Kill()
				_ = c.Wait()
			}
		}
	}
	for _, c := range []*exec.Cmd{backend, front} {
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			stop()
			return way{}, nil, err
		}
	}
	return way{"ReverseProxy", func(ctx context.Context) (*http.Request, error) {
		return post(ctx, "http://"+addrs[1]+"/echo")
	}}, stop, nil
}

func post(ctx context.Context, target string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, strings.NewReader(body))
	if err == nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, err
}

func oneProcess(ctx context.Context, bin, dir string) (way, func(), error) {
	s, err := stack.AllInOne(stack.Options{Bin: bin, Dir: dir, Env: []string{"SIROCCO_GPUS=H100:8", "SIROCCO_DRIVERS=process", "SIROCCO_LOG_LEVEL=error"}, Log: os.Stderr})
	if err != nil {
		return way{}, nil, err
	}
	stop := func() { _ = s.Stop() }
	if err := s.Start(ctx); err != nil {
		stop()
		return way{}, nil, err
	}
	w, err := through(ctx, s, "one process")
	if err != nil {
		stop()
	}
	return w, stop, err
}

func separate(ctx context.Context, bin, dir string) (way, func(), error) {
	log := zap.NewNop()
	if err := os.MkdirAll(dir, 0o711); err != nil { //nolint:gosec // as above
		return way{}, nil, err
	}
	natsPort, err := stack.FreePort()
	if err != nil {
		return way{}, nil, err
	}
	nats, err := bus.StartEmbedded(bus.EmbeddedOptions{Dir: filepath.Join(dir, "nats"), Host: "127.0.0.1", Port: natsPort, Log: log})
	if err != nil {
		return way{}, nil, err
	}
	db, err := private.Start(ctx, private.Options{Dir: dir, Log: log})
	if err != nil {
		nats.Shutdown()
		return way{}, nil, err
	}
	stopGround := func() {
		nats.Shutdown()
		_ = db.Stop(context.Background())
	}
	s, err := stack.Separate(stack.Options{
		Bin: bin, Dir: dir, Env: []string{"SIROCCO_GPUS=H100:8", "SIROCCO_DRIVERS=process", "SIROCCO_LOG_LEVEL=error", "SIROCCO_STOP_INSTANCES=true"}, Log: os.Stderr,
	}, fmt.Sprintf("nats://127.0.0.1:%d", natsPort), db.URL())
	if err != nil {
		stopGround()
		return way{}, nil, err
	}
	stop := func() { _ = s.Stop(); stopGround() }
	if err := s.Start(ctx); err != nil {
		stop()
		return way{}, nil, err
	}
	if err := deploy(ctx, s, bin); err != nil {
		stop()
		return way{}, nil, err
	}
	w, err := through(ctx, s, "separate processes")
	if err != nil {
		stop()
	}
	return w, stop, err
}

// deploy makes the function that sirocco up would have made.
func deploy(ctx context.Context, s *stack.Stack, bin string) error {
	admin, err := s.AdminToken(ctx)
	if err != nil {
		return err
	}
	if _, err := s.Request(ctx, http.MethodPut, "/v2/nvcf/images", admin, map[string]any{
		"reference": "sirocco/loadtester:sample", "command": []string{filepath.Join(bin, "sirocco"), "loadtester"},
	}, nil); err != nil {
		return err
	}
	var made struct {
		Function stack.Function `json:"function"`
	}
	if _, err := s.Request(ctx, http.MethodPost, "/v2/nvcf/functions", admin, map[string]any{
		"name": "sample-echo", "containerImage": "sirocco/loadtester:sample", "inferenceUrl": "/echo", "inferencePort": 8000,
		"health": map[string]any{"protocol": "HTTP", "uri": "/health", "port": 8000, "timeout": "PT10S", "expectedStatusCode": 200},
	}, &made); err != nil {
		return err
	}
	path := "/v2/nvcf/deployments/functions/" + made.Function.ID + "/versions/" + made.Function.VersionID
	if _, err := s.Request(ctx, http.MethodPost, path, admin, map[string]any{"deploymentSpecifications": []any{map[string]any{
		"gpu": "H100", "instanceType": "NCP.GPU.H100_1x", "minInstances": 1, "maxInstances": 1, "maxRequestConcurrency": 64,
	}}}, nil); err != nil {
		return err
	}
	for ctx.Err() == nil {
		list, err := s.Functions(ctx, admin)
		if err != nil {
			return err
		}
		if len(list) == 1 && list[0].Status == "ACTIVE" {
			return nil
		}
		if len(list) == 1 && list[0].Status == "ERROR" {
			return errors.New("the benchmark's function failed to start")
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return ctx.Err()
}

// through finds the deployed function and makes a key for it.
func through(ctx context.Context, s *stack.Stack, name string) (way, error) {
	admin, err := s.AdminToken(ctx)
	if err != nil {
		return way{}, err
	}
	list, err := s.Functions(ctx, admin)
	if err != nil {
		return way{}, err
	}
	if len(list) == 0 {
		return way{}, errors.New("no function is deployed")
	}
	_, key, err := s.FunctionKey(ctx, "bench@sirocco", "invoke_function")
	if err != nil {
		return way{}, err
	}
	return way{"Sirocco, " + name, func(ctx context.Context) (*http.Request, error) {
		req, err := post(ctx, s.URL+"/echo")
		if err == nil {
			req.Host = list[0].ID + ".invocation.localhost"
			req.Header.Set("Authorization", "Bearer "+key)
		}
		return req, err
	}}, nil
}

// result of one measurement.
type result struct {
	rps      float64
	p50, p99 time.Duration
}

// compare measures both ways in turn and prints medians over the rounds and their ratios.
func compare(ctx context.Context, form string, base, ours way, rounds int, each time.Duration) error {
	fmt.Printf("\n%-28s %6s %10s %10s %10s\n", form, "conns", "req/s", "p50", "p99")
	for _, conns := range []int{1, 32} {
		var a, b []result
		for i := range rounds + 1 {
			ra, err := measure(ctx, base, conns, each)
			if err != nil {
				return err
			}
			rb, err := measure(ctx, ours, conns, each)
			if err != nil {
				return err
			}
			if i > 0 { // the first round warms both up
				a, b = append(a, ra), append(b, rb)
			}
		}
		ma, mb := median(a), median(b)
		for _, line := range []struct {
			name string
			result
		}{{base.name, ma}, {ours.name, mb}} {
			fmt.Printf("%-28s %6d %10.0f %10s %10s\n", line.name, conns, line.rps, round(line.p50), round(line.p99))
		}
		fmt.Printf("%-28s %6d %10.2f %10.2f %10.2f\n", "ratio", conns, mb.rps/ma.rps,
			float64(mb.p50)/float64(ma.p50), float64(mb.p99)/float64(ma.p99))
	}
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(time.Microsecond) }

func median(rs []result) result {
	pick := func(of func(result) float64) float64 {
		v := make([]float64, len(rs))
		for i, r := range rs {
			v[i] = of(r)
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return result{
		rps: pick(func(r result) float64 { return r.rps }),
		p50: time.Duration(pick(func(r result) float64 { return float64(r.p50) })),
		p99: time.Duration(pick(func(r result) float64 { return float64(r.p99) })),
	}
}

// measure runs conns clients, each with one connection, for some time.
func measure(ctx context.Context, w way, conns int, each time.Duration) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, each+30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	times := make([][]time.Duration, conns)
	errs := make([]error, conns)
	began := time.Now()
	for n := range conns {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
			defer client.CloseIdleConnections()
			for time.Since(began) < each {
				t := time.Now()
				if errs[n] = call(ctx, client, w); errs[n] != nil {
					return
				}
				times[n] = append(times[n], time.Since(t))
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return result{}, fmt.Errorf("%s: %w", w.name, err)
	}
	var all []time.Duration
	for _, t := range times {
		all = append(all, t...)
	}
	slices.Sort(all)
	return result{rps: float64(len(all)) / took.Seconds(), p50: all[len(all)/2], p99: all[len(all)*99/100]}, nil
}

func call(ctx context.Context, client *http.Client, w way) error {
	req, err := w.req(ctx)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || len(b) != 256 {
		return fmt.Errorf("status %d, %d bytes: %.200s", resp.StatusCode, len(b), b)
	}
	return nil
}
