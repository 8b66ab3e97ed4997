package access

import "testing"

func TestCompatOpensAndClosesRows(t *testing.T) {
	t.Parallel()
	key := func(scope Scope, kind, id string) Credential {
		return Credential{Kind: Key, Account: "a", Audiences: []string{FunctionsAudience}, Policies: []Policy{{Scopes: []Scope{scope}, Resources: []Resource{{Type: kind, ID: id}}}}}
	}
	allFunctions := func(scope Scope) Credential { return key(scope, "account-functions", "*") }
	oneFunction := key(RegisterFunction, "function", "5e0c2a5c-7f0e-4f5d-9f1c-2c6f3c3a1b10/*")
	wide, entity := DefaultCompat, DefaultCompat
	wide.AccountWide, entity.InvokeWithEntity = true, true
	for name, c := range map[string]struct {
		compat Compat
		row    Row
		by     Credential
		opens  bool
	}{
		"telemetry, strictly":           {DefaultCompat, ManageTelemetry, allFunctions(ManageTelemetries), false},
		"telemetry, account wide":       {wide, ManageTelemetry, allFunctions(ManageTelemetries), true},
		"registries, account wide":      {wide, ManageRegistry, allFunctions(ManageRegistries), true},
		"telemetry secret, strictly":    {DefaultCompat, TelemetrySecrets, allFunctions(UpdateSecrets), false},
		"telemetry secret, wide":        {wide, TelemetrySecrets, allFunctions(UpdateSecrets), true},
		"quota stays strict":            {wide, ReadQuota, allFunctions(ReadGPUQuotaRule), false},
		"invoke with entity, strictly":  {DefaultCompat, Invoke, key(InvokeFunction, "*", "*"), false},
		"invoke with entity":            {entity, Invoke, key(InvokeFunction, "*", "*"), true},
		"version with function":         {DefaultCompat, CreateVersion, oneFunction, true},
		"version with function, closed": {Compat{}, CreateVersion, oneFunction, false},
		"version with all functions":    {Compat{}, CreateVersion, allFunctions(RegisterFunction), true},
		"function with function, never": {DefaultCompat, CreateFunction, oneFunction, false},
	} {
		if _, p := Decide(c.compat.Row(c.row), c.by); (p == nil) != c.opens {
			t.Errorf("%s: opens %v, refusal %v", name, !c.opens, p)
		}
	}
	for name, r := range DefaultCompat.Matrix() {
		if was := Matrix[name]; len(r.Ways) != len(was.Ways) {
			t.Errorf("%s: %d ways, not %d", name, len(r.Ways), len(was.Ways))
		}
	}
}
