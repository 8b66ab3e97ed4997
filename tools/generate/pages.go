package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/contracts/subject"
)

const notice = "<!-- Made by `make generate` from contracts. Do not edit. -->\n\n"

func accessPage() []byte {
	var b bytes.Buffer
	b.WriteString("# Who may do what\n\n" + notice +
		"A route asks for one row. Within one alternative every scope is needed; any alternative will do. A token carries scopes\n" +
		"and no resources. A key must hold each scope and, in the same policy, a resource of a type in the brackets behind it.\n\n" +
		"| Row | Lets a caller | Scopes (resources of a key), any of | Key made for |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(access.Matrix)) {
		r := access.Matrix[name]
		var ways []string
		for _, w := range r.Ways {
			var reaches []string
			for _, reach := range w.Reaches {
				reaches = append(reaches, "`"+reach.Wire()+"`")
			}
			with := "tokens only"
			if len(reaches) > 0 {
				with = strings.Join(reaches, ", ")
			}
			scopes := "none"
			if len(w.Scopes) > 0 {
				scopes = "`" + strings.Join(w.Scopes, "` with `") + "`"
			}
			ways = append(ways, scopes+" ("+with+")")
		}
		audience := "`" + r.Audience + "`"
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.Name, r.What, strings.Join(ways, " or "), audience)
	}
	return b.Bytes()
}

func problemsPage() []byte {
	var b bytes.Buffer
	b.WriteString("# Problems\n\n" + notice +
		"Every refusal is an RFC 9457 document of type `" + problem.ContentType + "`. `code` is stable, and what programs should look\n" +
		"at; `detail` is for people.\n\n" +
		"| Status | `code` | `type` | `title` |\n|---|---|---|---|\n")
	codes := slices.SortedFunc(maps.Keys(problem.Registry), func(a, b problem.Code) int {
		return cmp.Or(cmp.Compare(problem.Registry[a].Status, problem.Registry[b].Status), cmp.Compare(a, b))
	})
	for _, code := range codes {
		d := problem.New(code, "").Document("", "")
		fmt.Fprintf(&b, "| %d | `%s` | `%s` | %s |\n", d.Status, code, d.Type, d.Title)
	}
	return b.Bytes()
}

func streamsPage() []byte {
	var b bytes.Buffer
	b.WriteString("# Streams\n\n" + notice +
		"| Stream | Subjects | Owner | Keeps | At most | When full | Same id refused for | Holds |\n|---|---|---|---|---|---|---|---|\n")
	for _, s := range event.Streams {
		keeps, full := "for "+days(s.MaxAge), "oldest go"
		if s.WorkQueue {
			keeps, full = "until done, "+days(s.MaxAge)+" at most", "refuses"
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %s | %d MiB | %s | %s | %s |\n", s.Name, strings.Join(s.Subjects, "`, `"), s.Owner, keeps,
			s.MaxBytes>>20, full, days(s.Duplicates), s.Description)
	}
	fmt.Fprintf(&b, "| `%s<version>` | `%s` | invocation | until done, %s at most | %d messages | refuses | 1 min | requests that wait for one version, in memory |\n",
		strings.TrimSuffix(subject.QueueStream("x"), "x"), subject.AllQueues(), invocation.Longest, invocation.QueueMaxMessages)
	b.WriteString("\nOnly the owner publishes into an event stream. All streams but the last are on disk.\n")
	return b.Bytes()
}

func days(d time.Duration) string {
	if d == 24*time.Hour {
		return "1 day"
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
