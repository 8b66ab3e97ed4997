package deployments

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	contract "github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/instances"
	"github.com/sirocco-cloud/sirocco/libs/bus"
	"github.com/sirocco-cloud/sirocco/services/deployments/placement"
)

// start places what is missing. A specification that finds no place does not keep others from theirs.
func (r *Reconciler) start(ctx context.Context, t tx, d *deployment, starts []start, f fleet, now time.Time) error {
	if d.Status == functions.Error {
		return nil // why there was no place goes on being told
	}
	waiting := map[*specification]bool{}
	for _, s := range starts {
		waiting[s.spec] = true
	}
	for _, s := range d.Specs {
		if !waiting[s] {
			s.Unplaced, s.UnplacedCode = "", ""
		}
	}
	if len(starts) == 0 {
		return nil
	}
	held, err := r.store.held(ctx, t)
	if err != nil {
		return err
	}
	usable := f.usableBy(d.Account)
	kept, err := r.reservations(ctx, t, d.Account, f.rules)
	if err != nil {
		return err
	}
	for _, s := range starts {
		for range s.count {
			limit, err := r.limited(ctx, t, d, s.spec, f.rules)
			if err != nil {
				return err
			}
			if limit != nil {
				if err := r.unplaced(ctx, t, d, s.spec, nil, *limit); err != nil {
					return err
				}
				break
			}
			placed, err := r.place(ctx, t, d, s.spec, f, usable, kept, held, now)
			if err != nil {
				return err
			}
			if !placed {
				break
			}
			s.spec.Unplaced, s.spec.UnplacedCode = "", ""
		}
	}
	return nil
}

// place finds a place for one instance, reserves it and orders the launch.
func (r *Reconciler) place(ctx context.Context, t tx, d *deployment, s *specification, f fleet, nodes []clusters.Node, kept []reservation, held placement.Held, now time.Time) (bool, error) {
	if f.err != nil {
		return false, r.unplaced(ctx, t, d, s, nil, placement.Refusal{Code: "inventory-unavailable", Message: "the cluster inventory does not answer"})
	}
	place, rejected, refusal := placement.Choose(f.unreserved(nodes, held, s, kept), held, d.request(s, now))
	if refusal != nil {
		if because := reserved(nodes, held, d.request(s, now)); because != nil {
			refusal = because
		}
		return false, r.unplaced(ctx, t, d, s, rejected, *refusal)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return false, fmt.Errorf("instance id: %w", err)
	}
	i := &instance{
		ID: id.String(), DeploymentID: d.ID, SpecID: s.ID, Cluster: place.Node.Cluster, Node: place.Node.Node, Region: place.Node.Facts.Region,
		GPU: place.Type.GPU, Type: place.Type.Name, Devices: place.UUIDs(), State: instances.Starting, Phase: instances.Reserved,
		CreatedAt: now, UpdatedAt: now, StateAt: now, Deadline: now.Add(r.cfg.startTimeout(place.Simulated())),
	}
	if err := r.store.insertInstance(ctx, t, i); err != nil {
		return false, err
	}
	order := instances.LaunchOrder{
		CommandID: "launch-" + i.ID, InstanceID: i.ID, Account: d.Account, FunctionID: d.FunctionID, VersionID: d.VersionID,
		DeploymentID: d.ID, GPUSpecificationID: s.ID, GPU: i.GPU, InstanceType: i.Type, Devices: i.Devices,
		CPUMilli: place.Type.CPUMilli, MemoryMiB: place.Type.MemoryMiB, MaxConcurrency: s.concurrency(),
		Configuration: s.Configuration, IdleSeconds: r.cfg.idleSeconds(), Deadline: i.Deadline,
	}
	err = bus.Record(ctx, t, r.journal, contract.InstancePlaced, d.instanceFact(i.ID), contract.Placed{
		Order: order, Cluster: i.Cluster, Node: i.Node, Rejected: rejected,
	})
	if err != nil {
		return false, err
	}
	for _, uuid := range i.Devices {
		held[placement.Device{Node: i.place(), UUID: uuid}] = true
	}
	d.Instances = append(d.Instances, i)
	return true, bus.Order(ctx, t, r.journal, instances.Launch, i.Cluster, i.Node, order.CommandID, order)
}

// unplaced notes why there is no place; the event is recorded when the reason is new.
func (r *Reconciler) unplaced(ctx context.Context, t tx, d *deployment, s *specification, rejected map[string]int, refusal placement.Refusal) error {
	known := s.UnplacedCode == refusal.Code
	s.Unplaced, s.UnplacedCode = refusal.Message, refusal.Code
	if known {
		return nil
	}
	return bus.Record(ctx, t, r.journal, contract.InstanceUnplaced, d.fact(), contract.Unplaced{
		DeploymentID: d.ID, VersionID: d.VersionID, GPUSpecificationID: s.ID, Reason: refusal.Code + ": " + refusal.Message, Rejected: rejected,
	})
}

// request says what a specification asks of a node.
func (d *deployment) request(s *specification, now time.Time) placement.Request {
	r := placement.Request{
		GPU: s.GPU, InstanceType: s.InstanceType, Backend: s.Backend, Clusters: s.Clusters, Regions: s.Regions, Zones: s.AvailabilityZones, Attributes: s.Attributes,
		Spread: s.Wanted > 1, Peers: map[placement.Node]int{}, Failures: map[placement.Node]int{},
	}
	for _, i := range d.Instances {
		if i.SpecID == s.ID && i.useful() {
			r.Peers[i.place()]++
		}
		if at := i.unasked(); !at.IsZero() && now.Sub(at) < failureWindow {
			r.Failures[i.place()]++
		}
	}
	return r
}
