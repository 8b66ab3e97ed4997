package seal

import (
	"context"
	"time"
)

// Record is what the database knows of a key-encryption key.
type Record struct {
	// Name is the id of the key.
	Name    string
	Current bool
	// Value is the key itself, when it was given no other place to live.
	Value []byte
	// Since is when the record took its state.
	Since time.Time
}

// Value is a sealed value where it lies.
type Value struct {
	// Name is what the value is bound to.
	Name   string
	Sealed []byte
	// Place finds it again; only the register understands it.
	Place any
}

// Register is what a database knows of the key-encryption keys and of the values under them. In libs/store there is
// one for Postgres.
type Register interface {
	// Keys lists the records, the current one first.
	Keys(ctx context.Context) ([]Record, error)
	// Claim stores the first record, unless there is one.
	Claim(ctx context.Context, first Record) error
	// Rename gives a record its id, unless it has it already.
	Rename(ctx context.Context, from, to string) error
	// Promote makes a record the current one and all others previous, in one transaction.
	Promote(ctx context.Context, next Record) error
	// Retire forgets a previous key. It does nothing, and says so, while a value needs it.
	Retire(ctx context.Context, name string) (retired bool, err error)
	// Stale lists values that another key than current wraps, limit at most.
	Stale(ctx context.Context, current string, limit int) ([]Value, error)
	// Replace stores a value anew, unless it has changed since it was read.
	Replace(ctx context.Context, v Value, sealed []byte) error
	// Exclusively runs fn unless another process runs one already; then it returns false at once.
	Exclusively(ctx context.Context, fn func(context.Context) error) (ran bool, err error)
}
