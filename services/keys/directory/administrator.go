package directory

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/directory"
)

// Prepare makes the first administrator, once. Later starts leave it as it is, but for one thing: another password in the
// environment takes effect as long as nobody changed the password by the API.
func (d *Directory) Prepare(ctx context.Context) error {
	if d.cfg.AdminUser == "" {
		d.log.Info("no first administrator of the access API: SIROCCO_ADMIN_USER and SIROCCO_ADMIN_PASSWORD are not set")
		return d.refuseFactoryPassword(ctx)
	}
	found, err := d.store.userOf(ctx, d.cfg.AdminUser)
	if err != nil {
		return err
	}
	switch {
	case found == nil:
		if err := d.createAdministrator(ctx); err != nil {
			return err
		}
	case found.passwordFrom != fromEnvironment:
		d.log.Info("the first administrator has a password of its own; SIROCCO_ADMIN_PASSWORD is not used", zap.String("user", found.ID))
		return d.refuseFactoryPassword(ctx)
	default:
		if err := d.renewAdministrator(ctx, *found); err != nil {
			return err
		}
	}
	if d.cfg.AdminPassword == factoryPassword {
		d.log.Warn("the first administrator has the documented factory password, which everybody knows; change it with POST /api/v1/me/password")
	}
	return d.refuseFactoryPassword(ctx)
}

func (d *Directory) createAdministrator(ctx context.Context) error {
	hash, err := d.hasher.hash(ctx, d.cfg.AdminPassword)
	if err != nil {
		return err
	}
	now := d.now()
	u := user{
		account: access.DefaultAccount, hash: hash, passwordFrom: fromEnvironment,
		User: contract.User{ID: uuid.NewString(), Email: d.cfg.AdminUser, Username: d.cfg.AdminUser, CreatedBy: "system", CreatedAt: now, UpdatedAt: now},
	}
	err = d.store.createUser(ctx, u, installRule(u.subject(), systemAdministrator, u.CreatedBy, now))
	if errors.Is(err, errTaken) {
		return nil // another replica was faster
	}
	if err == nil {
		d.log.Info("made the first administrator of the access API", zap.String("user", u.ID))
	}
	return err
}

func (d *Directory) renewAdministrator(ctx context.Context, u user) error {
	same, err := d.hasher.matchesInTurn(ctx, d.cfg.AdminPassword, u.hash)
	if err != nil || same {
		return err
	}
	if u.hash, err = d.hasher.hash(ctx, d.cfg.AdminPassword); err != nil {
		return err
	}
	d.log.Info("SIROCCO_ADMIN_PASSWORD changed; the first administrator has the new password", zap.String("user", u.ID))
	return d.store.setPassword(ctx, u, d.now(), "changed in the environment")
}

// refuseFactoryPassword keeps a secured install from starting while a first administrator has the password that is printed
// in the installation guide, whatever the environment says today.
func (d *Directory) refuseFactoryPassword(ctx context.Context) error {
	if d.cfg.TrustMode != secured {
		return nil
	}
	administrators, err := d.store.usersWithPasswordFrom(ctx, fromEnvironment)
	if err != nil {
		return err
	}
	for _, u := range administrators {
		is, err := d.hasher.matchesInTurn(ctx, factoryPassword, u.hash)
		if err != nil {
			return err
		}
		if is {
			return fmt.Errorf("user %s has the documented factory password, which SIROCCO_TRUST_MODE=%s refuses; set SIROCCO_ADMIN_USER and another SIROCCO_ADMIN_PASSWORD", u.ID, secured)
		}
	}
	return nil
}
