package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestCheckNamesEveryFieldAndRule(t *testing.T) {
	c := NewCheck("function")
	c.Require(true, "fine", "never shown")
	c.Require(false, "name", "must match %s", "x")
	c.Require(false, "health.port", "must be positive")
	err := c.Err()
	p, ok := From(fmt.Errorf("create: %w", err))
	if !ok || p.Status() != 400 || len(p.Violations) != 2 {
		t.Fatalf("%v %v", p, ok)
	}
	for _, want := range []string{"Validation failed: ", "field: name, message: must match x", "field: health.port"} {
		if !strings.Contains(p.Detail, want) {
			t.Errorf("detail %q lacks %q", p.Detail, want)
		}
	}
	if NewCheck("x").Err() != nil {
		t.Error("a check without a violation is no error")
	}
}

func TestAnUnexpectedErrorShowsNothingOfItself(t *testing.T) {
	p, ok := From(errors.New("password=hunter2"))
	if ok || p.Status() != 500 || strings.Contains(p.Detail, "hunter2") {
		t.Fatalf("%v %v", p, ok)
	}
}

func TestDocumentHasAnIntegerStatusForEveryCode(t *testing.T) {
	for code, kind := range Registry {
		b, err := json.Marshal(New(code, "why").Document("/p", "id"))
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			Type, Title, Detail, Instance string
			Status                        int
		}
		if err := json.Unmarshal(b, &d); err != nil || d.Status != kind.Status || !strings.HasPrefix(d.Type, "urn:nv-boot:problem-details:") || d.Detail != "why" || d.Instance != "/p" {
			t.Errorf("%s: %s %v", code, b, err)
		}
	}
}

func TestParseIsTheInverseOfMarshal(t *testing.T) {
	p := New(ScopeMissing, "no")
	p.RequiredScopes = []string{"a"}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	q, err := Parse(b)
	if err != nil || !errors.Is(q, p) || q.RequiredScopes[0] != "a" {
		t.Fatalf("%v %v", q, err)
	}
	if _, err := Parse([]byte(`{}`)); err == nil {
		t.Error("a document without a code is no problem")
	}
}
