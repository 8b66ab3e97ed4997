// Package subject builds and parses every NATS subject that Sirocco uses. No subject literal exists elsewhere, so
// that permissions, streams and documentation can be derived from this page.
//
// Tokens are lower case, fixed in number and most general first. Values that come from outside (account ids, node
// names) are encoded with [Token], never pasted, because a dot, a space or a wildcard in them would change what the
// subject means.
package subject

import (
	"encoding/base64"
	"strings"
)

// Root tokens, one per kind of message.
const (
	requestRoot = "svc"
	eventRoot   = "evt"
	commandRoot = "cmd"
	workRoot    = "inv"
	deadRoot    = "dlq"
)

const encodedPrefix = "b64-"

// Token returns s in a form that is safe as one subject token: s itself when it is made of letters, digits, '-' and
// '_' only, otherwise "b64-" and its unpadded base64url form. The empty string becomes "_", the platform account.
func Token(s string) string {
	if s == "" {
		return "_"
	}
	if plain(s) && !strings.HasPrefix(s, encodedPrefix) && s != "_" {
		return s
	}
	return encodedPrefix + base64.RawURLEncoding.EncodeToString([]byte(s))
}

// ParseToken is the inverse of [Token]. A token that was not made by Token is returned as it is.
func ParseToken(t string) string {
	if t == "_" {
		return ""
	}
	if rest, ok := strings.CutPrefix(t, encodedPrefix); ok {
		if b, err := base64.RawURLEncoding.DecodeString(rest); err == nil {
			return string(b)
		}
	}
	return t
}

func plain(s string) bool {
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// Request is the subject of one endpoint: svc.<service>.<resource>.<verb>.
func Request(service, resource, verb string) string {
	return strings.Join([]string{requestRoot, service, resource, verb}, ".")
}

// RequestsOf matches every endpoint of one service.
func RequestsOf(service string) string { return requestRoot + "." + service + ".>" }

// Event is the subject of one fact: evt.<domain>.<account>.<entity>.<past-tense>.
func Event(domain, account, entity, name string) string {
	return strings.Join([]string{eventRoot, domain, Token(account), Token(entity), name}, ".")
}

// EventsOf matches every event of a domain.
func EventsOf(domain string) string { return eventRoot + "." + domain + ".>" }

// EventsNamed matches one kind of event of a domain for every account and entity.
func EventsNamed(domain, name string) string {
	return strings.Join([]string{eventRoot, domain, "*", "*", name}, ".")
}

// ParseEvent splits an event subject into its parts; ok is false for any other subject.
func ParseEvent(s string) (domain, account, entity, name string, ok bool) {
	p := strings.Split(s, ".")
	if len(p) != 5 || p[0] != eventRoot {
		return "", "", "", "", false
	}
	return p[1], ParseToken(p[2]), ParseToken(p[3]), p[4], true
}

// Command is the subject of an order to one node: cmd.<cluster>.<node>.<verb>.
func Command(cluster, node, verb string) string {
	return strings.Join([]string{commandRoot, Token(cluster), Token(node), verb}, ".")
}

// CommandsTo matches every command to one node.
func CommandsTo(cluster, node string) string {
	return strings.Join([]string{commandRoot, Token(cluster), Token(node), ">"}, ".")
}

// AllCommands is what the command stream captures.
func AllCommands() string { return commandRoot + ".>" }

// DeadLetter is where a message goes after its last try; the original subject follows the root.
func DeadLetter(original string) string { return deadRoot + "." + original }

// AllDeadLetters is what the dead-letter stream captures.
func AllDeadLetters() string { return deadRoot + ".>" }

// Direct is the warm path of a function version: core NATS, a queue group of the agents with a free slot.
func Direct(version string) string { return workRoot + ".direct." + Token(version) }

// Queue is the bounded work queue of a function version.
func Queue(version string) string { return workRoot + ".queue." + Token(version) }

// AllQueues matches the work queue of every version.
func AllQueues() string { return workRoot + ".queue.*" }

// QueueHint tells agents that the queue of a version has something in it. It carries nothing and may be lost: agents
// also look into the queue on their own from time to time.
func QueueHint(version string) string { return workRoot + ".hint." + Token(version) }

// QueueStream names the JetStream stream behind [Queue].
func QueueStream(version string) string { return queueStreamPrefix + Token(version) }

// ParseQueueStream is the inverse of [QueueStream]; ok is false for any other stream.
func ParseQueueStream(name string) (version string, ok bool) {
	token, ok := strings.CutPrefix(name, queueStreamPrefix)
	return ParseToken(token), ok
}

const queueStreamPrefix = "INV_"
