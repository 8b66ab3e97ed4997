package subject

import (
	"strings"
	"testing"
)

func TestEventSubjectRoundTrip(t *testing.T) {
	for _, c := range [][4]string{
		{"keys", "nvcf-default", "5d0c7c0e-6d5a-4f0e-9a51-3a1f0b7f2c11", "created"},
		{"nodes", "", "rack.1 a", "changed"},
		{"keys", "*", ">", "revoked"},
		{"keys", "b64-abc", "_", "revoked"},
	} {
		s := Event(c[0], c[1], c[2], c[3])
		if strings.ContainsAny(s, "*> ") {
			t.Errorf("%q has a wildcard or a space", s)
		}
		d, a, e, n, ok := ParseEvent(s)
		if !ok || d != c[0] || a != c[1] || e != c[2] || n != c[3] {
			t.Errorf("%q parses as %q %q %q %q %v", s, d, a, e, n, ok)
		}
	}
	if _, _, _, _, ok := ParseEvent("svc.keys.key.create"); ok {
		t.Error("a request subject must not parse as an event")
	}
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "_", "a", "a.b", "b64-", "b64-YQ", "né", "*", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok := Token(s)
		if tok == "" || strings.ContainsAny(tok, ".*> \t\r\n") {
			t.Fatalf("Token(%q) = %q is not one token", s, tok)
		}
		if got := ParseToken(tok); got != s {
			t.Fatalf("ParseToken(Token(%q)) = %q", s, got)
		}
	})
}
