// Package event holds the envelope of every fact and the streams that keep them.
//
// An event is a CloudEvents 1.0 document in structured JSON mode. It is immutable; it is written in the same
// transaction as the state that it reports, and published afterwards with its id as the message id, so that a consumer
// may see it twice but never differently.
package event

import (
	"encoding/json"
	"time"
)

// SpecVersion is the CloudEvents version of [Envelope].
const SpecVersion = "1.0"

// ContentType is the media type of an [Envelope].
const ContentType = "application/cloudevents+json"

// Envelope is one event. Extension attributes are lower case, as CloudEvents asks.
type Envelope struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Type        string    `json:"type"`
	Subject     string    `json:"subject"`
	Time        time.Time `json:"time"`
	DataType    string    `json:"datacontenttype"`
	// Account owns the entity; empty for events of the platform itself.
	Account string `json:"ncaid,omitempty"`
	Actor   Actor  `json:"-"`
	// ActorType and ActorID are Actor on the wire.
	ActorType string `json:"actortype,omitempty"`
	ActorID   string `json:"actorid,omitempty"`
	RequestID string `json:"requestid,omitempty"`
	// CorrelationID joins all events of one business flow, for example everything about one deployment.
	CorrelationID string `json:"correlationid,omitempty"`
	// CausationID is the id of the event or command that led to this one.
	CausationID string `json:"causationid,omitempty"`
	TraceParent string `json:"traceparent,omitempty"`
	Refs
	Data json.RawMessage `json:"data"`
}

// Actor is who caused an event.
type Actor struct {
	// Type is user, apikey, service, agent or system.
	Type string `json:"type"`
	// ID is a key id, a client id, a service or a node name; never a credential.
	ID string `json:"id"`
}

// Refs names the things an event is about, so that a reader can ask for the whole story of one of them.
type Refs struct {
	FunctionID   string `json:"functionid,omitempty"`
	VersionID    string `json:"versionid,omitempty"`
	DeploymentID string `json:"deploymentid,omitempty"`
	InstanceID   string `json:"instanceid,omitempty"`
	ClusterID    string `json:"clusterid,omitempty"`
	NodeID       string `json:"nodeid,omitempty"`
	KeyID        string `json:"keyid,omitempty"`
	TaskID       string `json:"taskid,omitempty"`
}

// All lists the ids in r, without the empty ones.
func (r Refs) All() []string {
	var ids []string
	for _, id := range []string{r.FunctionID, r.VersionID, r.DeploymentID, r.InstanceID, r.ClusterID, r.NodeID, r.KeyID, r.TaskID} {
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// MarshalJSON writes the actor as flat attributes.
func (e Envelope) MarshalJSON() ([]byte, error) {
	type plain Envelope
	p := plain(e)
	p.ActorType, p.ActorID = e.Actor.Type, e.Actor.ID
	return json.Marshal(p)
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (e *Envelope) UnmarshalJSON(b []byte) error {
	type plain Envelope
	if err := json.Unmarshal(b, (*plain)(e)); err != nil {
		return err
	}
	e.Actor = Actor{Type: e.ActorType, ID: e.ActorID}
	return nil
}
