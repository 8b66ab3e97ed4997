package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
	"github.com/sirocco-cloud/sirocco/libs/bus"
)

// updateSecrets lets an instance read its secrets anew. The order is done when the work has begun: an agent that dies
// before its end does the work for every instance that it takes up again.
func (a *Agent) updateSecrets(_ context.Context, order instances.SecretsOrder) error {
	if err := checkID(order.InstanceID); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if i, known := a.instances[order.InstanceID]; known {
		i.renewSecrets()
	}
	return nil
}

// renewSecrets begins to write the secrets of an instance anew, unless that is about to happen already. It is called with
// the agent's lock.
func (i *instance) renewSecrets() {
	if !i.stale.CompareAndSwap(false, true) {
		return
	}
	i.agent.running.Go(func() {
		for wait := 200 * time.Millisecond; i.agent.ctx.Err() == nil; wait = min(2*wait, 10*time.Second) {
			err := i.writeSecrets(i.agent.ctx)
			if err == nil {
				return
			}
			i.log.Warn("secrets not renewed, trying again", zap.Error(err))
			select {
			case <-i.done:
				return
			default:
				sleep(i.agent.ctx, wait)
			}
		}
	})
}

// askSecrets bounds one question for the secrets of a version.
const askSecrets = 5 * time.Second

// writeSecrets asks for the secrets and replaces the file. It waits for a start that is reading them just now, because
// that one may have read old ones; an instance that ends needs none.
func (i *instance) writeSecrets(ctx context.Context) error {
	i.secrets.Lock()
	defer i.secrets.Unlock()
	i.stale.Store(false) // who asks from now on asks for something newer
	i.mu.Lock()
	ending := i.rec.End != nil || !i.rec.State.Live()
	i.mu.Unlock()
	if _, err := os.Stat(secretsPath(i.dir())); ending || errors.Is(err, fs.ErrNotExist) {
		return nil // it never read any, or never will
	}
	ask, cancel := context.WithTimeout(ctx, askSecrets)
	defer cancel()
	l, err := bus.Call(ask, i.agent.conn, functions.Launch, functions.InternalRequest{FunctionID: i.rec.Order.FunctionID, VersionID: i.rec.Order.VersionID})
	switch {
	case problem.HasCode(err, problem.NotFound):
		return nil // its end is on the way
	case err != nil:
		return err
	}
	return replaceSecrets(i.dir(), l)
}

// maxRetired is how many former sets of secrets are remembered.
const maxRetired = 8

// replaceSecrets writes the files that the instance reads.
func replaceSecrets(dir string, l functions.Launchable) error {
	for path, secrets := range secretFiles(dir, l) {
		b, err := secretsDocument(secrets)
		if err == nil {
			err = replaceSecretFile(dir, path, b)
		}
		if err != nil {
			return fmt.Errorf("secrets: %w", err)
		}
	}
	return nil
}

// replaceSecretFile remembers what was in a file beside it, out of the instance's sight, so that a former value is still
// taken out of what the instance wrote.
func replaceSecretFile(dir, path string, b []byte) error {
	before, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return replaceFile(path, b, 0o444, false) // the instance was started before there was such a file
	}
	if err != nil || bytes.Equal(before, b) {
		return err
	}
	retired := append(retiredSecrets(dir), before)
	kept, err := json.Marshal(retired[max(len(retired)-maxRetired, 0):])
	if err != nil {
		return err
	}
	if err := replaceFile(retiredPath(dir), kept, 0o600, false); err != nil {
		return err
	}
	return replaceFile(path, b, 0o444, false)
}

// secretFiles are the files with secrets of an instance, and what each holds: those of the function, and those of the
// telemetry endpoints that it names (invocation §5.4).
func secretFiles(dir string, l functions.Launchable) map[string][]functions.Secret {
	telemetries := make([]functions.Secret, 0, len(l.Telemetries))
	for _, t := range l.Telemetries {
		telemetries = append(telemetries, t.Secret)
	}
	return map[string][]functions.Secret{secretsPath(dir): l.Secrets, accountSecretsPath(dir): telemetries}
}

// secretsDocument is the content of a file with secrets: names and values.
func secretsDocument(secrets []functions.Secret) ([]byte, error) {
	values := map[string]json.RawMessage{}
	for _, s := range secrets {
		values[s.Name] = s.Value
	}
	b, err := json.Marshal(values)
	if err != nil {
		return nil, fmt.Errorf("secrets: %w", err)
	}
	return b, nil
}

func retiredPath(dir string) string { return filepath.Join(dir, "retired.json") }

func retiredSecrets(dir string) []json.RawMessage {
	var retired []json.RawMessage
	if b, err := os.ReadFile(retiredPath(dir)); err == nil {
		_ = json.Unmarshal(b, &retired) // a torn file hides nothing any more; the newest secrets are in another one
	}
	return retired
}
