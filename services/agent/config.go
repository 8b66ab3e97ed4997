package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Config of an agent.
type Config struct {
	// DataDir keeps what the agent must remember over a restart.
	DataDir string `env:"SIROCCO_DATA_DIR" envDefault:"./.sirocco"`
	// Cluster and Node name this machine; the node defaults to its host name.
	Cluster string `env:"SIROCCO_CLUSTER" envDefault:"local"`
	Node    string `env:"SIROCCO_NODE"`
	// Account owns the cluster.
	Account string `env:"SIROCCO_ACCOUNT" envDefault:"nvcf-default"`
	Region  string `env:"SIROCCO_REGION" envDefault:"us-west-1"`
	// GPUs is auto, none, or simulated ones such as H100:8.
	GPUs string `env:"SIROCCO_GPUS" envDefault:"auto"`
	// Drivers is auto, or a list of docker, process and sim, tried in this order.
	Drivers []string `env:"SIROCCO_DRIVERS" envDefault:"auto"`
	// InstanceProvider is the first part of instance type names (clusters-agents §3.2).
	InstanceProvider string `env:"SIROCCO_INSTANCE_PROVIDER" envDefault:"NCP"`
	// DockerNetwork is the network that instances join when the agent is a container itself.
	DockerNetwork string `env:"SIROCCO_DOCKER_NETWORK"`
	// StopInstances makes an orderly stop of the agent drain and stop its instances. Off, they go on and the next agent
	// attaches to them again.
	StopInstances bool `env:"SIROCCO_STOP_INSTANCES" envDefault:"false"`
	// StopGrace is what an instance gets between SIGTERM and SIGKILL.
	StopGrace time.Duration `env:"SIROCCO_STOP_GRACE" envDefault:"20s"`
}

// identity is what makes this agent the same one after a restart.
type identity struct {
	// AgentID marks processes and containers as this agent's.
	AgentID string `json:"agentId"`
	// Epoch rises with every start; the inventory ignores what an older one says.
	Epoch int64 `json:"epoch"`
}

// loadIdentity reads the identity and counts this start.
func loadIdentity(dir string) (identity, error) {
	path := filepath.Join(dir, "identity.json")
	var id identity
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		absolute, err := filepath.Abs(dir)
		if err != nil {
			return id, fmt.Errorf("agent identity: %w", err)
		}
		// Derived from the place, so that instances are found again even if the file is lost.
		sum := sha256.Sum256([]byte(absolute))
		id.AgentID = hex.EncodeToString(sum[:8])
		id.Epoch = time.Now().Unix() // never behind an epoch that a lost file counted
	case err != nil:
		return id, fmt.Errorf("agent identity: %w", err)
	default:
		if err := json.Unmarshal(b, &id); err != nil {
			return id, fmt.Errorf("agent identity %s: %w", path, err)
		}
	}
	id.Epoch++
	return id, writeJSON(path, id, true)
}

// writeJSON replaces a file in one step, so that a killed agent leaves the old or the new one. A file that must also
// outlive the machine's power is synced to the disk.
func writeJSON(path string, v any, synced bool) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = replaceFile(path, b, 0o600, synced)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

func replaceFile(path string, b []byte, mode fs.FileMode, synced bool) error {
	tmp := path + ".tmp"
	// One that a crash left may not be writable.
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && synced {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
