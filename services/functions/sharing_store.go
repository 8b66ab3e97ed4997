package functions

import (
	"context"
	"encoding/json"
	"fmt"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
)

// parties are the columns that say who may use a version.
type parties struct {
	function, version []byte
	authorized        []string
	public            bool
}

func encodeParties(v version) (p parties, err error) {
	for list, text := range map[*[]contract.Party]*[]byte{&v.functionParties: &p.function, &v.versionParties: &p.version} {
		if *list == nil {
			*list = []contract.Party{}
		}
		if *text, err = json.Marshal(*list); err != nil {
			return parties{}, fmt.Errorf("encode parties: %w", err)
		}
	}
	p.public, p.authorized = v.public(), v.authorized()
	return p, nil
}

// share stores whom a locked version is shared with.
func (u unit) share(ctx context.Context, v version) error {
	p, err := encodeParties(v)
	if err != nil {
		return err
	}
	_, err = u.tx.Exec(ctx, `UPDATE functions.versions SET function_parties = $2, version_parties = $3, authorized = $4, public = $5,
		updated_at = $6, revision = revision + 1 WHERE version_id = $1`, v.id, p.function, p.version, p.authorized, p.public, v.updatedAt)
	if err != nil {
		return fmt.Errorf("share version: %w", err)
	}
	return nil
}
