package directory

import (
	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// SubjectFact is the payload of every event about a user or an application. It never holds a password, a secret or a
// token, nor anything made from one.
type SubjectFact struct {
	SubjectID   string `json:"subjectId"`
	SubjectType string `json:"subjectType"`
	// Name is the username or the client id.
	Name string `json:"name"`
	// Enabled is whether the subject may sign in after the event.
	Enabled bool   `json:"enabled"`
	Reason  string `json:"reason,omitempty"`
}

// SignInFact is the payload of the events of a grant.
type SignInFact struct {
	SubjectID   string `json:"subjectId,omitempty"`
	SubjectType string `json:"subjectType"`
	Name        string `json:"name,omitempty"`
	Grant       string `json:"grant"`
	ClientID    string `json:"clientId,omitempty"`
	// JTI of the access token that was issued.
	JTI    string   `json:"jti,omitempty"`
	Scopes []string `json:"scopes,omitempty"`
	// Count is how many failures an event of a failure stands for.
	Count   int    `json:"count,omitempty"`
	Address string `json:"address,omitempty"`
}

// The events. The entity is the id of the subject or of the rule.
var (
	UserCreated     = rpc.Event[SubjectFact]{Domain: event.Keys, Entity: "user", Name: "created", Version: 1, Doc: "A local user was created."}
	UserDeleted     = rpc.Event[SubjectFact]{Domain: event.Keys, Entity: "user", Name: "deleted", Version: 1, Doc: "A user was deleted; its tokens are refused."}
	UserSignedOut   = rpc.Event[SubjectFact]{Domain: event.Keys, Entity: "user", Name: "signed_out", Version: 1, Doc: "Every login of a user was ended."}
	PasswordChanged = rpc.Event[SubjectFact]{Domain: event.Keys, Entity: "user", Name: "password_changed", Version: 1, Doc: "A user's password was changed or reset; its logins were ended."}

	ApplicationCreated = rpc.Event[SubjectFact]{Domain: event.Keys, Entity: "application", Name: "created", Version: 1, Doc: "An application was created."}
	ApplicationUpdated = rpc.Event[SubjectFact]{Domain: event.Keys, Entity: "application", Name: "updated", Version: 1, Doc: "An application was enabled or disabled, or got a new secret."}
	ApplicationDeleted = rpc.Event[SubjectFact]{Domain: event.Keys, Entity: "application", Name: "deleted", Version: 1, Doc: "An application was deleted; its tokens are refused."}

	RuleCreated = rpc.Event[Rule]{Domain: event.Keys, Entity: "access-rule", Name: "created", Version: 1, Doc: "A subject was given a role."}
	RuleDeleted = rpc.Event[Rule]{Domain: event.Keys, Entity: "access-rule", Name: "deleted", Version: 1, Doc: "A role was taken from a subject."}

	SignedIn        = rpc.Event[SignInFact]{Domain: event.Keys, Entity: "sign-in", Name: "succeeded", Version: 1, Doc: "Tokens were issued to a user or an application."}
	SignInFailed    = rpc.Event[SignInFact]{Domain: event.Keys, Entity: "sign-in", Name: "failed", Version: 1, Doc: "Sign-ins with a wrong password or secret, folded; names that are no subject's are left out."}
	RefreshReplayed = rpc.Event[SignInFact]{Domain: event.Keys, Entity: "sign-in", Name: "replayed", Version: 1, Doc: "A used refresh token came back; its whole chain of tokens is refused."}
)
