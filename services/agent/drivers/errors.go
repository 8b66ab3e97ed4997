package drivers

import (
	"errors"
	"strings"

	"github.com/sirocco-cloud/sirocco/contracts/instances"
)

// The kinds of failure that callers tell apart; test with errors.Is.
var (
	// ErrUnavailable: the driver cannot be used here now, for example because
	// no engine answers. Trying later may help.
	ErrUnavailable = errors.New("driver unavailable")
	// ErrInvalidSpec: the spec can never work.
	ErrInvalidSpec = errors.New("invalid instance spec")
	// ErrImageNotFound: there is no such image. Terminal.
	ErrImageNotFound = errors.New("image not found")
	// ErrUnauthorized: the registry refuses the image to these credentials. Terminal.
	ErrUnauthorized = errors.New("not authorized to pull the image")
	// ErrRegistryUnreachable: pulling failed in transport, after the retries.
	ErrRegistryUnreachable = errors.New("registry unreachable")
	// ErrCreate: the instance could not be created or its command not be started.
	ErrCreate = errors.New("instance cannot be created")
	// ErrInstanceNotFound: the node has no such instance.
	ErrInstanceNotFound = errors.New("instance not found")
)

// Error is a failure with its kind and the words of whoever refused.
type Error struct {
	Kind     error
	Instance string
	// Detail is a sentence for people; it holds no secret.
	Detail string
	Err    error
}

// Error implements error.
func (e *Error) Error() string {
	parts := []string{e.Kind.Error()}
	if e.Detail != "" {
		parts = append(parts, e.Detail)
	}
	if e.Err != nil {
		parts = append(parts, e.Err.Error())
	}
	return strings.Join(parts, ": ")
}

// Unwrap makes both the kind and the underlying error visible to errors.Is.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// CauseOf maps a failure of Prepare or Start to the cause that an agent reports.
func CauseOf(err error) instances.Cause {
	switch {
	case err == nil:
		return instances.CauseNone
	case errors.Is(err, ErrImageNotFound), errors.Is(err, ErrUnauthorized), errors.Is(err, ErrRegistryUnreachable):
		return instances.ImagePull
	case errors.Is(err, ErrInvalidSpec):
		return instances.TerminalError
	case errors.Is(err, ErrInstanceNotFound):
		return instances.NotFound
	case errors.Is(err, ErrCreate), errors.Is(err, ErrUnavailable):
		return instances.CreateError
	default:
		return instances.Failed
	}
}

// CauseOfExit maps the end of an instance to the cause that an agent reports.
func CauseOfExit(s Status) instances.Cause {
	if s.OOM {
		return instances.OutOfMemory
	}
	return instances.Failed
}
