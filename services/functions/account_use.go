package functions

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/keys"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// accountsOf asks the keys service.
func accountsOf(conn *bus.Conn) Accounts {
	return func(ctx context.Context, account string) (keys.Account, error) {
		answer, err := bus.Call(ctx, conn, keys.LookupAccount, keys.AccountRequest{NCAID: account})
		return answer.Account, err
	}
}

// AccountUse tells the service that owns accounts what one has here (§10).
func (f *Functions) AccountUse(ctx context.Context, r contract.AccountUseRequest) (contract.AccountUseResponse, error) {
	answer := contract.AccountUseResponse{Account: r.Account, Telemetries: []contract.Telemetry{}, RegistryCredentials: []contract.RegistryCredential{}}
	if r.Account == "" {
		return answer, problem.New(problem.BadRequest, "account: is required")
	}
	var err error
	if answer.Functions, answer.Versions, err = f.store.accountCounts(ctx, r.Account); err != nil {
		return answer, err
	}
	if answer.AuthorizedParty, err = f.store.authorizedParty(ctx, r.Account); err != nil {
		return answer, err
	}
	telemetries, err := f.store.telemetries(ctx, r.Account)
	if err != nil {
		return answer, err
	}
	credentials, err := f.store.credentials(ctx, r.Account)
	answer.Telemetries = append(answer.Telemetries, telemetries...)
	answer.RegistryCredentials = append(answer.RegistryCredentials, credentials...)
	return answer, err
}

// accountClosed drops what an account leaves behind. It owns no functions any more: that is a condition of closing it.
func (f *Functions) accountClosed(ctx context.Context, tx pgx.Tx, _ event.Envelope, closed keys.AccountResponse) error {
	return unit{reads: reads{tx}, tx: tx, journal: f.store.journal}.dropAccount(ctx, closed.Account.NCAID, f.moment())
}
