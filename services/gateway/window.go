package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/invocation"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// pollWindow is how long a client waits for the response to begin (invocation §1.6).
func pollWindow(h http.Header, direct bool) (time.Duration, *problem.Problem) {
	v := h.Get(invocation.HeaderPollSeconds)
	if v == "" {
		if !direct && h.Get("Accept") == "text/event-stream" {
			return invocation.DefaultPollSSE, nil
		}
		return invocation.DefaultPoll, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, badWindow("must be a whole number of seconds")
	}
	if n > int(invocation.MaxPoll/time.Second) {
		return 0, badWindow("must be <= 3600")
	}
	return max(time.Duration(n)*time.Second, invocation.MinPoll), nil
}

func badWindow(rule string) *problem.Problem {
	return &problem.Problem{
		Code: problem.BadRequest, Detail: invocation.HeaderPollSeconds + " " + rule,
		Violations: []problem.Violation{{Field: invocation.HeaderPollSeconds, Rule: rule}},
	}
}
