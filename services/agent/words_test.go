package agent

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSplitArgs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"":                         nil,
		"  \t\n":                   nil,
		"a b  c":                   {"a", "b", "c"},
		`"a b" 'c d'`:              {"a b", "c d"},
		`a"b c"d`:                  {"ab cd"},
		`'' ""`:                    {"", ""},
		`a\ b \"c`:                 {"a b", `"c`},
		`"a\"b" "c\\d" "e\nf"`:     {`a"b`, `c\d`, `e\nf`},
		`'a\b'`:                    {`a\b`},
		`--x=<s>;y|z &amp $HOME #`: {"--x=<s>;y|z", "&amp", "$HOME", "#"},
		"größe 'ä ö'":              {"größe", "ä ö"},
	} {
		got, err := splitArgs(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, bad := range []string{`"a`, `it's`, `a\`} {
		_, err := splitArgs(bad)
		require.Error(t, err, bad)
	}
}

func FuzzSplitArgs(f *testing.F) {
	f.Add(`a "b c" 'd' \e`)
	f.Fuzz(func(t *testing.T, s string) {
		words, err := splitArgs(s)
		if err != nil {
			return
		}
		// Quoted again, the words come out as they were.
		var quoted []string
		for _, word := range words {
			quoted = append(quoted, "'"+strings.ReplaceAll(word, "'", `'\''`)+"'")
		}
		again, err := splitArgs(strings.Join(quoted, " "))
		require.NoError(t, err)
		require.Equal(t, words, again)
	})
}

func TestISODuration(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"PT10S": 10 * time.Second, "pt1m30s": 90 * time.Second, "PT0.5S": 500 * time.Millisecond, "PT2H": 2 * time.Hour,
		"P1D": 24 * time.Hour, "P1DT12H": 36 * time.Hour, "P2W": 14 * 24 * time.Hour,
		"": 0, "10": 0, "P": 0, "PT": 0, "PT10": 0, "P1M": 0, "P1Y": 0, "P10S": 0, "PT1S2M": 0, "PT1.2.3S": 0, "-PT1S": 0, "PT-1S": 0, "PTS": 0, "PT1S1S": 0,
		"PT99999999999999999999H": 0,
	} {
		require.Equal(t, want, isoDuration(in), in)
	}
}

func FuzzISODuration(f *testing.F) {
	for _, s := range []string{"PT10S", "P1DT2H3M4.5S", "P1W", "PTT", "P"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d := isoDuration(s); d < 0 || d == math.MaxInt64 {
			t.Fatalf("isoDuration(%q) = %d", s, d)
		}
	})
}
