// Package main turns the event stream of `go test -json` into what a person wants to read: one line for each
// package, the whole output of what failed, the reason of what was skipped, and a closing count.
//
// It exists because CI has to add the tests of several runs to one number, and because plain `go test` either
// says too little (no counts, no skip reasons) or, with -v, far too much.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// event is one line of `go test -json`; see `go doc test2json`.
type event struct {
	Action  string  `json:"Action"`
	Package string  `json:"Package"`
	Test    string  `json:"Test"`
	Output  string  `json:"Output"`
	Elapsed float64 `json:"Elapsed"`
}

// tally counts finished tests, subtests included. A package that does not build or that fails outside any test
// counts as one failure.
type tally struct{ passed, failed, skipped int }

// packageRun is what is remembered of one package until its verdict is in.
type packageRun struct {
	tally
	output map[string][]string // by test name; "" holds what no test owns
	broken []string            // names of failed tests, in order
}

func main() {
	counts := flag.String("counts", "", "append `passed failed skipped` to this file")
	flag.Parse()
	total, err := report(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(2)
	}
	if *counts != "" {
		if err := appendCounts(*counts, total); err != nil {
			fmt.Fprintln(os.Stderr, "testreport:", err)
			os.Exit(2)
		}
	}
	if total.failed > 0 {
		os.Exit(1)
	}
}

// report reads events until the end of r and writes the readable form to w. Lines that are no event (a compiler's
// words from an older toolchain, a stray print) pass through unchanged.
func report(r io.Reader, w io.Writer) (tally, error) {
	var total tally
	runs := map[string]*packageRun{}
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			var e event
			if json.Unmarshal([]byte(line), &e) != nil {
				fmt.Fprint(w, line)
			} else {
				apply(w, runs, e, &total)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return total, fmt.Errorf("read test events: %w", err)
		}
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", total.passed, total.failed, total.skipped)
	return total, nil
}

func apply(w io.Writer, runs map[string]*packageRun, e event, total *tally) {
	if e.Action == "build-output" {
		fmt.Fprint(w, e.Output)
		return
	}
	if e.Package == "" {
		return
	}
	run := runs[e.Package]
	if run == nil {
		run = &packageRun{output: map[string][]string{}}
		runs[e.Package] = run
	}
	switch {
	case e.Action == "output":
		run.output[e.Test] = append(run.output[e.Test], e.Output)
	case e.Test != "":
		run.finish(w, e)
	case e.Action == "pass" || e.Action == "fail" || e.Action == "skip":
		run.close(w, e)
		total.passed += run.passed
		total.failed += run.failed
		total.skipped += run.skipped
		delete(runs, e.Package)
	}
}

// finish takes the verdict on one test and forgets the output of the ones that need no reading.
func (p *packageRun) finish(w io.Writer, e event) {
	switch e.Action {
	case "pass":
		p.passed++
		delete(p.output, e.Test)
	case "skip":
		p.skipped++
		fmt.Fprintf(w, "skip %s %s: %s\n", e.Package, e.Test, reason(p.output[e.Test]))
		delete(p.output, e.Test)
	case "fail":
		p.failed++
		p.broken = append(p.broken, e.Test)
	}
}

// close writes the package's line. Packages without tests are left out.
func (p *packageRun) close(w io.Writer, e event) {
	if e.Action != "fail" {
		if n := p.passed + p.skipped; n > 0 {
			fmt.Fprintf(w, "ok   %s %.1fs %d tests\n", e.Package, e.Elapsed, n)
		}
		return
	}
	if p.failed == 0 {
		p.failed = 1
	}
	for _, name := range p.broken {
		fmt.Fprint(w, strings.Join(p.output[name], ""))
		delete(p.output, name)
	}
	// What is left belongs to tests that never ended (a panic, a time-out) and to the package itself.
	for name, lines := range p.output {
		if name != "" {
			fmt.Fprint(w, strings.Join(lines, ""))
		}
	}
	fmt.Fprint(w, strings.Join(p.output[""], ""))
	fmt.Fprintf(w, "FAIL %s %.1fs %d of %d tests failed\n", e.Package, e.Elapsed, p.failed, p.passed+p.failed)
}

// reason is what a skipped test said: its last line before the verdict, without the file position's indent.
func reason(lines []string) string {
	for _, line := range slices.Backward(lines) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "---") && !strings.HasPrefix(line, "===") {
			return line
		}
	}
	return "no reason given"
}

func appendCounts(path string, t tally) (err error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open counts: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close counts: %w", cerr)
		}
	}()
	if _, err := fmt.Fprintln(f, t.passed, t.failed, t.skipped); err != nil {
		return fmt.Errorf("write counts: %w", err)
	}
	return nil
}
