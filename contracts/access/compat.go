package access

import "slices"

// Compat are the places where the matrix can be read in two ways (keys §7.4 and §12). The gateway decides by what an
// operator chose, and the keys service warns by it, so both read the same settings.
type Compat struct {
	// AccountWide lets a key with all functions manage telemetry endpoints and registry credentials, as those that the
	// published CLI generates do elsewhere; strictly that takes all entity (rows 10, 14 and 15).
	AccountWide bool `env:"SIROCCO_COMPAT_ACCOUNT_WIDE_SCOPES" envDefault:"false"`
	// InvokeWithEntity lets a key with all entity alone invoke the functions of its account (row 12).
	InvokeWithEntity bool `env:"SIROCCO_COMPAT_INVOKE_WITH_ALL_ENTITY" envDefault:"false"`
	// VersionWithFunction lets a key with one function create versions of it (row 2).
	VersionWithFunction bool `env:"SIROCCO_COMPAT_CREATE_VERSION_WITH_FUNCTION" envDefault:"true"`
}

// DefaultCompat is the matrix as it is written.
var DefaultCompat = Compat{VersionWithFunction: true}

// Row is a row of the matrix as these settings have it.
func (c Compat) Row(r Row) Row {
	switch r.Name {
	case TelemetrySecrets.Name, ManageTelemetry.Name, ManageRegistry.Name:
		return r.reaching(AF, c.AccountWide)
	case Invoke.Name:
		return r.reaching(AE, c.InvokeWithEntity)
	case CreateVersion.Name:
		return r.reaching(F, c.VersionWithFunction)
	}
	return r
}

// Matrix is every row as these settings have it, by name.
func (c Compat) Matrix() map[string]Row {
	all := make(map[string]Row, len(Matrix))
	for name, r := range Matrix {
		all[name] = c.Row(r)
	}
	return all
}

// reaching is the row with a reach that is, or is not, compatible with its ways for keys.
func (r Row) reaching(reach Reach, compatible bool) Row {
	ways := slices.Clone(r.Ways)
	for i, w := range ways {
		if len(w.Reaches) == 0 || slices.Contains(w.Reaches, reach) == compatible {
			continue
		}
		if compatible {
			ways[i].Reaches = append(slices.Clone(w.Reaches), reach)
		} else {
			ways[i].Reaches = slices.DeleteFunc(slices.Clone(w.Reaches), func(have Reach) bool { return have == reach })
		}
	}
	r.Ways = ways
	return r
}
