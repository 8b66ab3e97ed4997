package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

const functionsPath = "/v2/nvcf/functions"

func escape(segment string) string { return url.PathEscape(segment) }

func versionPath(f functions.Function) string {
	return functionsPath + "/" + f.ID + "/versions/" + f.VersionID
}

func deploymentPath(f functions.Function) string {
	return "/v2/nvcf/deployments/functions/" + f.ID + "/versions/" + f.VersionID
}

func isID(ref string) bool { return len(ref) == 36 && uuid.Validate(ref) == nil }

// versionsOf finds a function by id or name and returns its versions, the newest first.
func versionsOf(ctx context.Context, c *client.Client, ref string) ([]functions.Function, error) {
	path := functionsPath
	if isID(ref) {
		path += "/" + ref + "/versions"
	}
	list, _, err := ask[functions.ListResponse](ctx, c, client.Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return nil, err
	}
	versions := list.Functions
	if !isID(ref) {
		if versions, err = named(versions, ref); err != nil {
			return nil, err
		}
	}
	if len(versions) == 0 {
		return nil, next(&missing{fmt.Sprintf("function %q", ref)}, "see what there is: `sirocco function list`")
	}
	slices.SortStableFunc(versions, func(a, b functions.Function) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return versions, nil
}

// named keeps the versions of the one function that has a version of that name. Names need not be unique, ids are.
func named(all []functions.Function, name string) ([]functions.Function, error) {
	var ids []string
	for _, f := range all {
		if f.Name == name && !slices.Contains(ids, f.ID) {
			ids = append(ids, f.ID)
		}
	}
	if len(ids) > 1 {
		return nil, &failure{
			err: fmt.Errorf("%d functions are named %q", len(ids), name), details: ids, next: "say which one by its id",
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(f functions.Function) bool { return !slices.Contains(ids, f.ID) }), nil
}

func functionID(ctx context.Context, c *client.Client, ref string) (string, error) {
	if isID(ref) {
		return strings.ToLower(ref), nil
	}
	versions, err := versionsOf(ctx, c, ref)
	if err != nil {
		return "", err
	}
	return versions[0].ID, nil
}

// oneVersion finds the version that a command is about: the one that --version names, else the newest of those that fit,
// else the newest.
func oneVersion(ctx context.Context, c *client.Client, ref, version string, fits func(functions.Status) bool) (functions.Function, error) {
	versions, err := versionsOf(ctx, c, ref)
	if err != nil {
		return functions.Function{}, err
	}
	if version == "" {
		if i := slices.IndexFunc(versions, func(f functions.Function) bool { return fits(f.Status) }); i >= 0 {
			return versions[i], nil
		}
		return versions[0], nil
	}
	for _, f := range versions {
		if strings.EqualFold(f.VersionID, version) {
			return f, nil
		}
	}
	return functions.Function{}, next(&missing{fmt.Sprintf("version %s of function %q", version, ref)}, "see what there is: `sirocco function list %s`", ref)
}

// version connects and finds the version that a command is about.
func (s *session) version(ctx context.Context, ref, version string, fits func(functions.Status) bool) (*client.Client, functions.Function, error) {
	c, err := s.connect()
	if err != nil {
		return nil, functions.Function{}, err
	}
	f, err := oneVersion(ctx, c, ref, version, fits)
	return c, f, err
}

func anyStatus(functions.Status) bool { return true }

// deployed reports whether a version in this state has a deployment.
func deployed(s functions.Status) bool { return s.Busy() || s == functions.Error }

// label names a version in sentences.
func label(f functions.Function) string {
	return fmt.Sprintf("%s (function %s, version %s)", orDefault(f.Name, "function"), f.ID, f.VersionID)
}

// completeFunctions offers the names of functions to the shell; a gateway that does not answer at once offers none.
func (s *session) completeFunctions(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	if len(args) > 0 {
		return nil, none
	}
	c, err := s.connect()
	if err != nil {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
	defer cancel()
	list, _, err := ask[functions.ListResponse](ctx, c, client.Request{Method: http.MethodGet, Path: functionsPath})
	if err != nil {
		return nil, none
	}
	var names []string
	for _, f := range list.Functions {
		names = append(names, f.Name)
	}
	slices.Sort(names)
	return slices.Compact(names), none
}
