package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		events []string
		want   tally
		says   []string
		hides  []string
	}{
		{
			name: "passing tests leave one line",
			events: []string{
				`{"Action":"run","Package":"p","Test":"TestA"}`,
				`{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}`,
				`{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}`,
				`{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}`,
				`{"Action":"pass","Package":"p","Elapsed":0.1}`,
			},
			want:  tally{passed: 1},
			says:  []string{"ok   p 0.1s 1 tests\n", "1 passed, 0 failed, 0 skipped\n"},
			hides: []string{"chatter"},
		},
		{
			name: "a failing test shows its output and a passing sibling does not",
			events: []string{
				`{"Action":"output","Package":"p","Test":"TestA","Output":"quiet\n"}`,
				`{"Action":"pass","Package":"p","Test":"TestA"}`,
				`{"Action":"output","Package":"p","Test":"TestB","Output":"want 1, have 2\n"}`,
				`{"Action":"fail","Package":"p","Test":"TestB"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want:  tally{passed: 1, failed: 1},
			says:  []string{"want 1, have 2\n", "FAIL p", "1 of 2 tests failed"},
			hides: []string{"quiet"},
		},
		{
			name: "a skip says why",
			events: []string{
				`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:3: no Docker engine answers\n"}`,
				`{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}`,
				`{"Action":"skip","Package":"p","Test":"TestA"}`,
				`{"Action":"pass","Package":"p"}`,
			},
			want: tally{skipped: 1},
			says: []string{"skip p TestA: a_test.go:3: no Docker engine answers\n"},
		},
		{
			name: "a package that does not build is one failure and shows the compiler's words",
			events: []string{
				`{"ImportPath":"p","Action":"build-output","Output":"p/a.go:3:1: syntax error\n"}`,
				`{"ImportPath":"p","Action":"build-fail"}`,
				`{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			},
			want: tally{failed: 1},
			says: []string{"p/a.go:3:1: syntax error\n", "FAIL p"},
		},
		{
			name: "a test cut off by a panic shows what it said",
			events: []string{
				`{"Action":"run","Package":"p","Test":"TestA"}`,
				`{"Action":"output","Package":"p","Test":"TestA","Output":"panic: boom\n"}`,
				`{"Action":"fail","Package":"p"}`,
			},
			want: tally{failed: 1},
			says: []string{"panic: boom\n"},
		},
		{
			name:   "what is no event passes through",
			events: []string{`# some linker warning`},
			want:   tally{},
			says:   []string{"# some linker warning\n"},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			have, err := report(strings.NewReader(strings.Join(c.events, "\n")+"\n"), &out)
			require.NoError(t, err)
			require.Equal(t, c.want, have)
			for _, s := range c.says {
				require.Contains(t, out.String(), s)
			}
			for _, s := range c.hides {
				require.NotContains(t, out.String(), s)
			}
		})
	}
}
