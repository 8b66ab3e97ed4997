package deployments

import (
	"context"
	"slices"

	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// Wake raises a version that wants no instance to one, where it is preferred; for any other it does nothing.
func (u *Deployments) Wake(ctx context.Context, req contract.WakeRequest) (rpc.None, error) {
	if err := validIDs(map[string]string{"versionId": req.VersionID}); err != nil {
		return rpc.None{}, err
	}
	return rpc.None{}, u.store.tx(ctx, func(t tx) error {
		id, err := u.store.idOf(ctx, t, "deployments", "version_id", req.VersionID)
		if err != nil || id == "" {
			return err
		}
		d, err := u.store.lock(ctx, t, id)
		if err != nil || d == nil || d.Teardown != standing || !d.Status.Busy() {
			return err
		}
		if slices.ContainsFunc(d.Specs, func(s *specification) bool { return s.Wanted > 0 }) {
			return nil
		}
		first := byPreference(d.Specs)[0]
		first.Wanted = 1
		if err := u.store.put(ctx, t, d); err != nil {
			return err
		}
		if err := scaled(ctx, t, u.journal, d, first, 0, "zero"); err != nil {
			return err
		}
		return u.store.poke(ctx, t, d.ID)
	})
}

// scaled records why the number of wanted instances changed, if it did.
func scaled(ctx context.Context, t tx, j *bus.Journal, d *deployment, s *specification, from int, cause string) error {
	if from == s.Wanted {
		return nil
	}
	return bus.Record(ctx, t, j, contract.ScaleChanged, d.fact(), contract.ScaleDecided{
		DeploymentID: d.ID, VersionID: d.VersionID, GPUSpecificationID: s.ID, From: from, To: s.Wanted, Cause: cause,
	})
}
