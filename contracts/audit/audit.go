// Package audit is the contract of the ledger: the record of every event, in order, hash-chained, and readable by time
// and by entity (spec events-operations §5).
package audit

import (
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// Record is one event as the ledger keeps it. Sequence is the ledger's own order; Hash covers the event and PrevHash,
// the hash of the record before it in the same account.
type Record struct {
	Sequence int64          `json:"sequence"`
	Subject  string         `json:"subject"`
	PrevHash string         `json:"prevHash"`
	Hash     string         `json:"hash"`
	StoredAt time.Time      `json:"storedAt"`
	Event    event.Envelope `json:"event"`
}

// EventsRequest is GET /v1/audit/events. Times are RFC 3339; Entity is any id that events refer to.
type EventsRequest struct {
	Since  string `json:"since,omitempty" query:"since"`
	Until  string `json:"until,omitempty" query:"until"`
	Entity string `json:"entity,omitempty" query:"entity"`
	Domain string `json:"domain,omitempty" query:"domain"`
	// After is the sequence to continue behind.
	After int64 `json:"after,omitempty" query:"after"`
	Limit int   `json:"limit,omitempty" query:"limit"`
	// WaitSeconds keeps the request open until an event arrives, at most 20.
	WaitSeconds int `json:"waitSeconds,omitempty" query:"wait"`
}

// EventsResponse is a page of records in ledger order.
type EventsResponse struct {
	Events []Record `json:"events"`
	// Next is the sequence to pass as After for the next page; the last one seen.
	Next int64 `json:"next"`
	// More is true when the page was cut by its limit.
	More bool `json:"more"`
}

// VerifyRequest is POST /v1/audit/verify.
type VerifyRequest struct{}

// VerifyResponse reports the state of the hash chains.
type VerifyResponse struct {
	Checked int64 `json:"checked"`
	Intact  bool  `json:"intact"`
	// FirstBad is the sequence of the first record that does not fit its chain.
	FirstBad int64 `json:"firstBad,omitempty"`
}

// The endpoints.
var (
	Events = rpc.Endpoint[EventsRequest, EventsResponse]{Service: "ledger", Resource: "event", Verb: "list", Doc: "Events in order, by time and entity.", Timeout: 30 * time.Second}
	Verify = rpc.Endpoint[VerifyRequest, VerifyResponse]{Service: "ledger", Resource: "chain", Verb: "verify", Doc: "Recomputes the hash chains.", Timeout: time.Minute}
)
