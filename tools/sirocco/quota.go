package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// newQuota is how many GPUs the account may use (functions-deployments §12).
func newQuota(s *session) *cobra.Command {
	const rules = "/v2/nvcf/gpu/quota/rules"
	shown := table{columns: columns("Rule", "ruleId", "Account", "ncaId", "GPU", "gpu", "Clusters", "clusters", "Regions", "regions", "GPUs at most", "limit", "Reserved", "reserved", "Burst", "burst")}
	clusters := member{flag: "cluster", name: "clusters", kind: severalTexts, usage: "a cluster that the rule is about; repeat for several (default: all)"}
	regions := member{flag: "region", name: "regions", kind: severalTexts, usage: "a region that the rule is about; repeat for several (default: all)"}
	number := func(name, usage string) member {
		return member{flag: name, name: name, kind: wholeNumber, usage: usage}
	}
	more := []member{
		{flag: "max-instances", name: "maxInstances", kind: wholeNumber, usage: "how many instances at most (default: any number)"},
		number("reserved", "how many GPUs are kept free for the account"),
		number("burst", "how many GPUs beyond the limit work may use while there is room"),
		number("priority", "accounts with a higher one are served first"),
	}
	limit := member{flag: "limit", name: "limit", kind: wholeNumber, required: true, usage: "how many GPUs at most"}
	list := verb{
		use: "list", short: "List the rules", method: http.MethodGet, path: "/v2/nvcf/quotas/gpus",
		needs: &loan{scopes: []access.Scope{access.ReadGPUQuotaRule}, resource: everything}, table: table{member: "rules", columns: shown.columns},
	}
	cmd := noun(s, "quota", "How many GPUs the account may use", "Without a rule an account may use what there is. `sirocco cluster capacity` shows what it uses.", []verb{
		list,
		{
			use: "create GPU", short: "Add a rule", example: "  sirocco quota create H100 --limit 8", method: http.MethodPost, path: rules, argument: "gpu",
			members: append([]member{limit, clusters, regions}, more...), table: shown,
		},
		{use: "delete RULE", short: "Delete a rule", method: http.MethodDelete, path: rules + "/{RULE}", done: "deleted %s"},
	})
	cmd.Args = cobra.NoArgs
	cmd.RunE = list.command(s).RunE
	return cmd
}

// capacityVerbs are the looks at clusters beside their list.
func capacityVerbs() []verb {
	return []verb{
		{
			use: "groups", short: "List cluster groups with their clusters", method: http.MethodGet, path: "/v2/nvcf/clusterGroups",
			table: table{member: "clusterGroups", columns: columns("Group", "name", "ID", "id", "Account", "ncaId", "Clusters", "clusters", "GPUs", "gpus")},
		},
		{
			use: "configure CLUSTER", short: "Set who else may use a cluster, and what it can do",
			long:    "CLUSTER is the id of the cluster, as `sirocco cluster groups` shows it. What is not given is cleared.",
			example: "  sirocco cluster configure 6f0c8f5e-6a4e-5a55-9f4e-0b6f1d1c2d3e --open-to acct-78 --attribute CacheOptimized",
			method:  http.MethodPut, path: "/v2/nvcf/clusters/{CLUSTER}/settings",
			members: []member{
				{flag: "open-to", name: "authorizedNcaIds", kind: severalTexts, usage: "an account that may deploy on the cluster, or * for all; repeat for several"},
				{flag: "attribute", name: "attributes", kind: severalTexts, usage: "what the cluster can do, such as CacheOptimized; repeat for several"},
			},
			table: table{columns: columns("Cluster", "clusterName", "ID", "clusterId", "Open to", "authorizedNcaIds", "Attributes", "attributes")},
		},
		{
			use: "gpus", short: "List the GPUs that functions can be deployed on", method: http.MethodGet, path: "/v2/nvcf/supportedGpus",
			table: table{columns: columns("GPU", "gpu", "Backend", "backend")},
		},
	}
}

// newCapacity shows what the account uses and what is free, by instance type and cluster.
func newCapacity(s *session) *cobra.Command {
	return &cobra.Command{
		Use: "capacity", Short: "Show what of each instance type runs and what is free", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := s.answer(cmd.Context(), &loan{scopes: []access.Scope{access.GPUCapacity}, resource: everything},
				client.Request{Method: http.MethodGet, Path: "/v2/nvcf/capacity/gpus"})
			if err != nil {
				return err
			}
			return s.show(raw, func(w io.Writer) error {
				var types map[string][]deployments.CapacityType
				if err := json.Unmarshal(raw, &types); err != nil {
					return fmt.Errorf("capacity: %w", err)
				}
				var rows [][]string
				for gpu, list := range types {
					for _, t := range list {
						for _, region := range t.Regions {
							for _, at := range region.Clusters {
								u := at.Usage
								rows = append(rows, []string{
									gpu, t.InstanceName, region.RegionName, at.ClusterName, fmt.Sprint(u.ActiveInstances), fmt.Sprintf("%d to %d", u.MinInstances, u.MaxInstances),
									fmt.Sprint(u.AvailableInstances), fmt.Sprint(u.AvailableGPUs),
								})
							}
						}
					}
				}
				slices.SortFunc(rows, slices.Compare[[]string])
				return writeTable(w, []string{"GPU", "INSTANCE TYPE", "REGION", "CLUSTER", "RUN", "WANTED", "FIT NOW", "FREE GPUS"}, rows)
			})
		},
	}
}
