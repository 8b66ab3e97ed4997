package keys

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
	libstore "github.com/sirocco-cloud/sirocco/libs/store"
)

// kept is the answer to a creation as the memory of repeated requests holds it: without the key's value, which follows
// from the seed and the deployment's data-domain key, so that the database alone cannot tell it.
type kept struct {
	Key  contract.Key `json:"key"`
	Seed []byte       `json:"seed"`
	// Tail tells under which data-domain key the value was made, should there be another one by now.
	Tail string `json:"tail"`
}

// once runs a creation in a transaction. With an Idempotency-Key a repeated request gets the first answer, value
// included, and makes no second key.
func (k *Keys) once(ctx context.Context, issuer contract.Issuer, req contract.CreateRequest, now time.Time, answer *contract.Key,
	create func(pgx.Tx, *drawing) error,
) error {
	d := &drawing{format: k.format, random: k.random, repeatable: req.IdempotencyKey != ""}
	if !d.repeatable {
		return k.store.tx(ctx, func(tx pgx.Tx) error { return create(tx, d) })
	}
	name := libstore.Key{Scope: "create\x1f" + issuer.ServiceID + "\x1f" + issuer.OwnerID, Key: req.IdempotencyKey}
	req.Issuer, req.IdempotencyKey = contract.Issuer{}, ""
	name.Request = req
	return k.store.tx(ctx, func(tx pgx.Tx) error {
		var memory kept
		err := k.store.repeats.Once(ctx, tx, name, now, &memory, func() error {
			if err := create(tx, d); err != nil {
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
