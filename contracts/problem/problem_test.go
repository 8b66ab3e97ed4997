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

func TestQuotingTellsWhatWasSent(t *testing.T) {
	c := NewCheck("function")
	c.Require(false, "name", "must be short")
	c.Require(false, "tags", "must be few")
	before, _ := From(c.Err())
	p := before.Quoting(func(field string) string {
		if field == "name" {
			return strings.Repeat("ä", 300)
		}
		return "null"
	})
	want := "Validation failed: [object: function, field: name, rejected: " + strings.Repeat("ä", 256) + ", message: must be short]" +
		" [object: function, field: tags, rejected: null, message: must be few]"
	if p.Detail != want {
		t.Errorf("%q", p.Detail)
	}
	if before.Violations[0].Rejected != "" {
		t.Error("the problem itself stays as it was")
	}
	if again := p.Quoting(func(string) string { return "other" }); again.Detail != want {
		t.Errorf("what is told stays: %q", again.Detail)
	}
	other := &Problem{Code: BadRequest, Detail: "words of its own", Violations: before.Violations}
	if q := other.Quoting(func(string) string { return "x" }); q.Detail != other.Detail || q.Violations[1].Rejected != "x" {
		t.Errorf("%+v", q)
	}
}

func TestAnAnswerHoldsSoManyViolations(t *testing.T) {
	c := NewCheck("x")
	for range 1000 {
		c.Require(false, "f", "r")
	}
	if p, _ := From(c.Err()); len(p.Violations) != 64 {
		t.Errorf("%d", len(p.Violations))
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
