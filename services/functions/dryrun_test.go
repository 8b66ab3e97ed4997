package functions

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

func TestADryRunCreatesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	request := contract.CreateRequest{
		DryRun: true, IdempotencyKey: "again", Spec: minimal(), Secrets: []contract.Secret{{Name: "TOKEN", Value: json.RawMessage(`"v"`)}},
	}
	answer, err := call(w, admin(), contract.Create, request)
	require.NoError(t, err)
	require.Equal(t, "echo", answer.Function.Name)
	require.Equal(t, contract.Inactive, answer.Function.Status)
	require.Equal(t, []string{"TOKEN"}, answer.Function.Secrets)
	require.Empty(t, answer.ETag)
	gone := contract.VersionRequest{FunctionID: answer.Function.ID, VersionID: answer.Function.VersionID}
	_, err = call(w, admin(), contract.Get, gone)
	requireProblem(t, err, problem.NotFound)

	// The key of the rehearsal is free for the creation itself, which is the first thing that anybody hears of.
	request.DryRun = false
	made, err := call(w, admin(), contract.Create, request)
	require.NoError(t, err)
	require.NotEqual(t, answer.Function.ID, made.Function.ID)
	types, _ := w.told(1, func(event.Envelope) bool { return true })
	require.Equal(t, []string{contract.Created.Type()}, types)

	// It says what a creation would say: every broken rule, and what only other data tells.
	bad := contract.CreateRequest{DryRun: true, Spec: contract.Spec{Name: "no name", InferenceURL: "a b"}}
	_, err = call(w, admin(), contract.Create, bad)
	requireProblem(t, err, problem.Validation, "field: name", "field: inferenceUrl", "field: containerImage")
	further := contract.CreateRequest{DryRun: true, FunctionID: gone.FunctionID, Spec: minimal()}
	_, err = call(w, admin(), contract.Create, further)
	requireProblem(t, err, problem.NotFound, "Not found in account")
	small := adminOf("small")
	for range 2 {
		_, err = call(w, small, contract.Create, contract.CreateRequest{Spec: minimal()})
		require.NoError(t, err)
	}
	_, err = call(w, small, contract.Create, contract.CreateRequest{DryRun: true, Spec: minimal()})
	requireProblem(t, err, problem.IllegalState, "maxFunctionsAllowed")
}

func TestASecretIsDeletedOnlyFromTheRevisionThatIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	fn := w.create("", minimal(), contract.Secret{Name: "a", Value: json.RawMessage(`"v"`)})
	request := contract.SecretRequest{FunctionID: fn.ID, VersionID: fn.VersionID, Name: "a", IfMatch: `"7"`}
	_, err := call(w, admin(), contract.DeleteSecret, request)
	requireProblem(t, err, problem.PreconditionFailed)
	request.IfMatch = `"1"`
	_, err = call(w, admin(), contract.DeleteSecret, request)
	require.NoError(t, err)
}
