package deployments

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// channel carries the ids of deployments that need a look. A notification is sent by the transaction that changes
// something and delivered after its commit, to the leader, in whichever process that is.
const channel = "sirocco_deployments"

const (
	leaderLock  = "sirocco.deployments.leader"
	leaderEvery = time.Second
	closeWithin = 2 * time.Second
	// leaderSilence is how long Postgres leaves the session of a leader alone that says nothing, because its process is
	// stopped or its host frozen; leaderBeat is how often a leader says something.
	leaderSilence = 10 * time.Second
	leaderBeat    = 3 * time.Second
)

// poke asks the leader to look at a deployment once t is committed.
func (s *store) poke(ctx context.Context, t tx, id string) error {
	if _, err := t.Exec(ctx, `SELECT pg_notify($1, $2)`, channel, id); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}

// lockQuota makes the admissions of one account wait for one another until the transaction ends.
func (s *store) lockQuota(ctx context.Context, t tx, account string) error {
	if _, err := t.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended($1, 0))`, "sirocco.deployments.quota."+account); err != nil {
		return fmt.Errorf("lock quota: %w", err)
	}
	return nil
}

// lead waits until this process is the leader and then runs work, until ctx ends or the session with Postgres does. The
// lock belongs to the session, so a leader that dies gives it up by dying, and Postgres ends the session of one that is
// silent. poked is called for every notification.
// Should two leaders ever overlap, row locks and the devices' key still keep their work right.
func (s *store) lead(ctx context.Context, poked func(id string), work func(context.Context) error) error {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return fmt.Errorf("leader session: %w", err)
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
		defer cancel()
		_ = conn.Close(bye) // the session is given up either way
	}()
	if err := elected(ctx, conn); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `LISTEN `+channel); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if _, err := conn.Exec(ctx, `SELECT set_config('idle_session_timeout', $1, false)`, strconv.FormatInt(leaderSilence.Milliseconds(), 10)); err != nil {
		return fmt.Errorf("bound silence: %w", err)
	}
	run, cancel := context.WithCancel(ctx)
	heard := make(chan error, 1)
	go func() {
		defer cancel()
		for {
			n, err := hear(run, conn)
			if err != nil {
				heard <- err
				return
			}
			if n != nil {
				poked(n.Payload)
			}
		}
	}()
	err = work(run)
	cancel()
	if lost := <-heard; err == nil && ctx.Err() == nil {
		return fmt.Errorf("leader session lost: %w", lost)
	}
	return err
}

// hear waits for a notification, for a moment, and then gives a sign of life instead.
func hear(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	moment, cancel := context.WithTimeout(ctx, leaderBeat)
	n, err := conn.WaitForNotification(moment)
	cancel()
	if err == nil || ctx.Err() != nil || moment.Err() == nil {
		return n, err
	}
	alive, cancel := context.WithTimeout(ctx, leaderBeat)
	defer cancel()
	return nil, conn.Ping(alive)
}

// elected tries until the lock is free. It does not wait inside Postgres, because a query that waits for days would
// keep vacuum from doing its work.
func elected(ctx context.Context, conn *pgx.Conn) error {
	for {
		var mine bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended($1, 0))`, leaderLock).Scan(&mine); err != nil {
			return fmt.Errorf("leader lock: %w", err)
		}
		if mine {
			return nil
		}
		t := time.NewTimer(leaderEvery)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}
