package keys

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
)

// kept is the answer to a creation or a rotation as the memory of repeated requests holds it: without the key's value, which follows
// from the seed and the deployment's data-domain key, so that the database alone cannot tell it.
type kept struct {
	Key  contract.Key `json:"key"`
	Seed []byte       `json:"seed"`
	// Tail tells under which data-domain key the value was made, should there be another one by now.
	Tail string `json:"tail"`
}

// repetition names a request that may come again: what it does, for whom, and what it says beside that. issuer and key
// are what said has no more.
func repetition(verb string, issuer contract.Issuer, key string, said any) libstore.Key {
	return libstore.Key{Scope: verb + "\x1f" + issuer.ServiceID + "\x1f" + issuer.OwnerID, Key: key, Request: said}
}

// once makes a key in a transaction. With an Idempotency-Key a repeated request gets the first answer, value included,
// and makes no second key.
func (k *Keys) once(ctx context.Context, name libstore.Key, now time.Time, answer *contract.Key, draw func(pgx.Tx, *drawing) error) error {
	d := &drawing{format: k.format, random: k.random, repeatable: name.Key != ""}
	if !d.repeatable {
		return k.store.tx(ctx, func(tx pgx.Tx) error { return draw(tx, d) })
	}
	if !storable(name.Key) {
		return invalid("Idempotency-Key", "must have at most %d characters and none of them a control character", maxName)
	}
	return k.store.tx(ctx, func(tx pgx.Tx) error {
		var memory kept
		err := k.store.repeats.Once(ctx, tx, name, now, &memory, func() error {
			if err := draw(tx, d); err != nil {
				return err
			}
			memory = kept{Key: *answer, Seed: d.seed, Tail: answer.Value[len(answer.Value)-tailLength:]}
			memory.Key.Value = ""
			return nil
		})
		if err == nil {
			*answer = memory.Key
			answer.Value = k.format.rederive(memory.Seed, memory.Tail).value
		}
		return err
	})
}
