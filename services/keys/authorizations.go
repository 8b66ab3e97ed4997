package keys

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// authorizations are the client's document about what a key may do, compact, otherwise as it was sent.
type authorizations string

// readAuthorizations applies the lenient validation of keys §7.6: any JSON of at most limit characters; policies, if
// there are any, must have the shape that grants are read from. Null members count as absent.
func readAuthorizations(sent json.RawMessage, limit int) (authorizations, error) {
	if len(sent) == 0 || bytes.Equal(bytes.TrimSpace(sent), []byte("null")) {
		return "", invalid("authorizations", "must be present and not null")
	}
	var compact bytes.Buffer
	if !utf8.Valid(sent) || json.Compact(&compact, sent) != nil {
		return "", invalid("authorizations", "must be JSON in UTF-8")
	}
	text := unescapeHTML(compact.String())
	if n := utf8.RuneCountInString(text); n > limit {
		return "", invalid("authorizations", "must have at most %d characters as compact JSON, has %d", limit, n)
	}
	if text[0] == '{' {
		if err := access.CheckPolicies([]byte(text)); err != nil {
			return "", err
		}
	}
	return authorizations(text), nil
}

// unescapeHTML undoes the escapes that Go's JSON encoder adds on the way between services, so that the size is counted,
// and the document kept, as the client wrote it.
func unescapeHTML(text string) string {
	if !strings.Contains(text, `\u`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b.WriteByte(text[i])
			continue
		}
		if plain, ok := htmlEscapes[text[i:min(i+6, len(text))]]; ok {
			b.WriteString(plain)
			i += 5
			continue
		}
		b.WriteString(text[i:min(i+2, len(text))]) // an escaped backslash must not start the next escape
		i++
	}
	return b.String()
}

var htmlEscapes = map[string]string{`\u003c`: "<", `\u003e`: ">", `\u0026`: "&", `\u2028`: "\u2028", `\u2029`: "\u2029"}

// policies are what a document grants.
func (a authorizations) policies() []access.Policy { return access.Policies([]byte(a)) }

// invalid is the refusal of one member of a request.
func invalid(field, rule string, args ...any) error {
	check := problem.NewCheck("key")
	check.Require(false, field, rule, args...)
	return check.Err()
}
