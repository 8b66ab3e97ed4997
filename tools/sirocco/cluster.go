package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/clusters"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

func newCluster(s *session) *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Clusters and their GPUs"}
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List clusters, GPUs, instance types and what is free", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.connect()
			if err != nil {
				return err
			}
			groups, raw, err := clusterGroups(cmd.Context(), c)
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error { return writeGroups(w, groups) })
		},
	})
	for _, v := range capacityVerbs() {
		cmd.AddCommand(v.command(s))
	}
	cmd.AddCommand(newCapacity(s))
	return cmd
}

func clusterGroups(ctx context.Context, c *client.Client) ([]clusters.Group, []byte, error) {
	answer, raw, err := ask[clusters.GroupsResponse](ctx, c, client.Request{Method: http.MethodGet, Path: "/v2/nvcf/clusterGroups"})
	return answer.ClusterGroups, raw, err
}

// writeGroups prints a line for each instance type, so that every line can be used in a deployment as it stands.
func writeGroups(w io.Writer, groups []clusters.Group) error {
	var rows [][]string
	for _, g := range groups {
		var names []string
		for _, cluster := range g.Clusters {
			names = append(names, cluster.Name+" "+strings.ToLower(cluster.Status))
		}
		members := orDash(strings.Join(names, ", "))
		if len(g.GPUs) == 0 {
			rows = append(rows, []string{g.Name, members, "-", "-", "-", "-"})
		}
		for _, gpu := range g.GPUs {
			free := fmt.Sprintf("%d of %d", gpu.Available, gpu.Capacity)
			if len(gpu.InstanceTypes) == 0 {
				rows = append(rows, []string{g.Name, members, gpu.Name, free, "-", "-"})
			}
			for _, t := range gpu.InstanceTypes {
				rows = append(rows, []string{g.Name, members, gpu.Name, free, t.Name, fmt.Sprint(t.Available)})
			}
		}
	}
	return writeTable(w, []string{"GROUP", "CLUSTERS", "GPU", "FREE GPUS", "INSTANCE TYPE", "FIT NOW"}, rows)
}

// chooseType finds the GPU and instance type of a deployment that does not name both: the default type of the first GPU
// that has room, else the first default type, else the first type.
func chooseType(groups []clusters.Group, gpu, instanceType string) (string, string, error) {
	best, bestRank := [2]string{}, 0
	for _, g := range groups {
		for _, candidate := range g.GPUs {
			if gpu != "" && !strings.EqualFold(gpu, candidate.Name) {
				continue
			}
			for _, t := range candidate.InstanceTypes {
				if instanceType != "" && !strings.EqualFold(instanceType, t.Name) {
					continue
				}
				rank := 1
				if t.Default {
					rank = 2
				}
				if t.Default && t.Available > 0 {
					rank = 3
				}
				if rank > bestRank {
					best, bestRank = [2]string{candidate.Name, t.Name}, rank
				}
			}
		}
	}
	if bestRank > 0 {
		return best[0], best[1], nil
	}
	if gpu == "" && instanceType == "" {
		return "", "", next(&missing{"any GPU"}, "start an agent (`sirocco up` has one), then look at `sirocco cluster list`")
	}
	return "", "", next(&missing{fmt.Sprintf("a cluster with gpu %q and instance type %q", orDefault(gpu, "any"), orDefault(instanceType, "any"))},
		"choose from `sirocco cluster list`")
}
