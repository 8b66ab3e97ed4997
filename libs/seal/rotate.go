package seal

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// batch is how many values are wrapped anew between two looks at the context.
const batch = 200

// Status tells how far a rotation is.
type Status struct {
	// Current is the id of the key that seals. Previous keys still open values; with none left the rotation is over.
	Current  string   `json:"current"`
	Previous []string `json:"previous"`
	// Rewrapped counts the values that the call itself moved under the current key.
	Rewrapped int `json:"rewrapped"`
}

// Rotate makes a new key current and moves the values under it. The new key is the operator's, when the source has one
// that is not in use; a conflict says that there ought to be one. Otherwise it is made, and lives where the one before
// does. While an earlier rotation is not over, Rotate goes on with that one and makes no further key.
func (v *Vault) Rotate(ctx context.Context) (Status, error) {
	ran, err := v.register.Exclusively(ctx, func(ctx context.Context) error {
		records, err := v.register.Keys(ctx)
		if err != nil {
			return err
		}
		if len(records) != 1 {
			return nil
		}
		return v.promote(ctx, records[0])
	})
	if err != nil {
		return Status{}, err
	}
	if !ran {
		return v.status(ctx, 0) // someone else is at it
	}
	if err := v.Load(ctx); err != nil {
		return Status{}, err
	}
	return v.Settle(ctx)
}

// promote finds or makes the next key and puts it in force. A key is in its file before the register knows of it: if
// the process dies in between, the file has a key too many, which the next rotation drops.
func (v *Vault) promote(ctx context.Context, before Record) error {
	candidates, err := v.source.keys()
	if err != nil {
		return err
	}
	old, err := v.find(before, candidates)
	if err != nil {
		return err
	}
	next := Record{Current: true, Since: v.now()}
	switch given, err := v.source.given(); {
	case err != nil:
		return err
	case v.source.Given != "" && given[0].id != old.id:
		next.Name = given[0].id.String()
	case v.source.Previous != "":
		return nil // this rotation is over; whoever asks again may not have had the answer
	case v.source.Given != "":
		return problem.New(problem.Conflict, "%[1]s is the current key: give every replica a new one as %[1]s and this one as %[2]s, then ask again",
			v.source.Variable, v.source.Variable+PreviousSuffix)
	default:
		k, err := makeKey()
		if err != nil {
			return err
		}
		next.Name = k.id.String()
		if before.Value != nil || v.source.File == "" {
			next.Value = k.secret
		} else if err := replaceFile(v.source.File, []*key{k, old}); err != nil {
			return err
		}
	}
	return v.register.Promote(ctx, next)
}

// Settle moves values from previous keys to the current one, and forgets previous keys that no value needs and no
// replica can still be sealing with. It may be called at any time, from any replica.
func (v *Vault) Settle(ctx context.Context) (Status, error) {
	moved := 0
	_, err := v.register.Exclusively(ctx, func(ctx context.Context) error {
		if err := v.Load(ctx); err != nil {
			return err
		}
		current, keys, _ := v.known()
		var err error
		if moved, err = v.rewrap(ctx, current, keys); err != nil {
			return err
		}
		return v.retire(ctx, current)
	})
	if err != nil {
		return Status{}, err
	}
	return v.status(ctx, moved)
}

// rewrap goes on past values that do not open, so that one damaged row keeps no other under a previous key; it ends with
// the error of such a row when only they are left.
func (v *Vault) rewrap(ctx context.Context, current *key, keys map[ID]*key) (moved int, err error) {
	for {
		values, err := v.register.Stale(ctx, current.id.String(), batch)
		if err != nil || len(values) == 0 {
			return moved, err
		}
		var broken error
		before := moved
		for _, value := range values {
			sealed, err := rewrap(keys, current, value.Name, value.Sealed)
			if err != nil {
				broken = err
				continue
			}
			if err := v.register.Replace(ctx, value, sealed); err != nil {
				return moved, err
			}
			moved++
		}
		if moved == before {
			return moved, broken
		}
	}
}

func (v *Vault) retire(ctx context.Context, current *key) error {
	records, err := v.register.Keys(ctx)
	if err != nil {
		return err
	}
	var promoted time.Time
	for _, r := range records {
		if r.Current {
			promoted = r.Since
		}
	}
	if len(records) < 2 || v.now().Sub(promoted) < retireAfter {
		return nil
	}
	left := 0
	for _, r := range records {
		if r.Current {
			continue
		}
		retired, err := v.register.Retire(ctx, r.Name)
		if err != nil {
			return err
		}
		if !retired {
			left++
		}
	}
	if left > 0 || v.source.File == "" {
		return v.Load(ctx)
	}
	if err := v.tidyFile(current); err != nil {
		return err
	}
	return v.Load(ctx)
}

// tidyFile leaves only the current key in the file that holds it.
func (v *Vault) tidyFile(current *key) error {
	found, err := readFile(v.source.File)
	if err != nil || len(found) < 2 {
		return nil //nolint:nilerr // keys that live elsewhere need no file
	}
	for _, k := range found {
		if k.id == current.id {
			return replaceFile(v.source.File, []*key{k})
		}
	}
	return nil
}

func (v *Vault) status(ctx context.Context, moved int) (Status, error) {
	records, err := v.register.Keys(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{Previous: []string{}, Rewrapped: moved}
	for _, r := range records {
		if r.Current {
			s.Current = r.Name
		} else {
			s.Previous = append(s.Previous, r.Name)
		}
	}
	return s, nil
}

// Status tells which keys are in use.
func (v *Vault) Status(ctx context.Context) (Status, error) { return v.status(ctx, 0) }

// settleEvery is how often a replica looks for a rotation to finish.
const settleEvery = 10 * time.Second

// Run finishes rotations, whoever began them, until ctx ends. Every replica may run one: they take turns.
func (v *Vault) Run(ctx context.Context, log *zap.Logger) error {
	tick := time.NewTicker(settleEvery) // how often to look is nothing that a test would want to decide
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		records, err := v.register.Keys(ctx)
		if err != nil {
			return fmt.Errorf("look for a rotation: %w", err)
		}
		if len(records) < 2 {
			continue
		}
		s, err := v.Settle(ctx)
		if err != nil {
			return fmt.Errorf("finish the rotation of the key-encryption key: %w", err)
		}
		log.Info("rotation of the key-encryption key goes on", zap.Int("rewrapped", s.Rewrapped), zap.Strings("previous", s.Previous))
	}
}
