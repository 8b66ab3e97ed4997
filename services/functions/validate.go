package functions

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/distribution/reference"
	"github.com/google/uuid"

	contract "github.com/sirocco-cloud/sirocco/contracts/functions"
	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// The limits of §2.5 and §2.6.
const (
	maxDescription = 256
	maxTags        = 64
	maxTag         = 128
	maxSecret      = 32768
	maxAccounts    = 32
	maxPriorities  = 64
	maxPort        = 65535
	// maxIdempotencyKey is the length of the key of a repeatable request.
	maxIdempotencyKey = 255
	// maxRequest keeps a specification, with what its event and its answer add, below what the bus carries. It is more than
	// the largest body, because defaults and escaped characters make a specification longer than it came.
	maxRequest = 6<<20 + 512<<10
	// maxViolations and maxField bound an answer that quotes the request.
	maxViolations = 64
	maxField      = 128
	// reservedPrefix belongs to the variables that the platform gives to a container (invocation §5.4).
	reservedPrefix = "NVCF_"
)

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9A-Z][a-z0-9A-Z\-_]{0,127}$`)
	tagPattern     = regexp.MustCompile(`^[a-zA-Z0-9\-_:=]{1,128}$`)
	secretPattern  = regexp.MustCompile(`^[a-z0-9A-Z][a-z0-9A-Z_.\-]{0,47}$`)
	chartPattern   = regexp.MustCompile(`^(oci://[^\s/]+/\S+:[^\s:/]+|(oci|https)://[^\s/]+/\S+\.tgz)$`)
	ratePattern    = regexp.MustCompile(`^[1-9]\d*-[SMHD](,\s*[1-9]\d*-[SMHD])*$`)
	tokensPattern  = regexp.MustCompile(`^[1-9]\d*-[SMHDW](,\s*[1-9]\d*-[SMHDW])*$`)
	zipPattern     = regexp.MustCompile(`(?i)/zip(\?|$)`)
	routingMethods = []string{
		"power-of-two", "wait-and-widen", "round-robin", "random", "pulsar", "pulsar-wait-and-widen",
		"groq-multiregion", "pulsar-multiregion",
	}
)

// rule is one line of the specification: the member it is about, what would be accepted, and whether a value keeps it.
// A member is named relative to the value; an empty name means the value itself.
type rule[T any] struct {
	field, text string
	holds       func(T) bool
}

var specRules = []rule[contract.Spec]{
	{"name", "is required: 1 to 128 letters, digits, hyphens and underscores, the first a letter or digit", func(s contract.Spec) bool { return namePattern.MatchString(s.Name) }},
	{"inferenceUrl", "is required", func(s contract.Spec) bool { return s.InferenceURL != "" }},
	{"inferenceUrl", "must be a URI such as /echo, without spaces", optional(func(s contract.Spec) string { return s.InferenceURL }, isURI)},
	{"inferencePort", "must be a port, 1 to 65535", func(s contract.Spec) bool { return s.InferencePort >= 0 && s.InferencePort <= maxPort }},
	{"containerImage", "one of containerImage, models and helmChart is required", func(s contract.Spec) bool { return s.ContainerImage != "" || len(s.Models) > 0 || s.HelmChart != "" }},
	{"containerImage", "must be an image reference such as registry.example.com/team/image:tag", optional(func(s contract.Spec) string { return s.ContainerImage }, isImage)},
	{"containerImage", "helmChart excludes it", func(s contract.Spec) bool { return s.HelmChart == "" || s.ContainerImage == "" }},
	{"containerArgs", "helmChart excludes it", func(s contract.Spec) bool { return s.HelmChart == "" || s.ContainerArgs == "" }},
	{"containerArgs", "must be an argument line whose quotes are closed, without NUL", func(s contract.Spec) bool { return isArguments(s.ContainerArgs) }},
	{"containerEnvironment", "helmChart excludes it", func(s contract.Spec) bool { return s.HelmChart == "" || len(s.ContainerEnvironment) == 0 }},
	{"helmChart", "must be oci://host/path:version, oci://…-version.tgz or https://….tgz", optional(func(s contract.Spec) string { return s.HelmChart }, chartPattern.MatchString)},
	{"helmChart", "comes together with helmChartServiceName", func(s contract.Spec) bool { return s.HelmChart != "" || s.HelmChartServiceName == "" }},
	{"helmChartServiceName", "comes together with helmChart", func(s contract.Spec) bool { return s.HelmChart == "" || s.HelmChartServiceName != "" }},
	{"functionType", "must be DEFAULT, STREAMING or LLM", func(s contract.Spec) bool {
		return slices.Contains([]contract.Type{"", contract.Default, contract.Streaming, contract.LLM}, s.FunctionType)
	}},
	{"apiBodyFormat", "must be CUSTOM or PREDICT_V2, or OPENAI_CHAT for an LLM function", func(s contract.Spec) bool {
		return slices.Contains([]string{"", formatCustom, formatPredict}, s.APIBodyFormat) || s.APIBodyFormat == formatOpenAI && s.FunctionType == contract.LLM
	}},
	{"healthUri", "must be a URI such as /health, without spaces", optional(func(s contract.Spec) string { return s.HealthURI }, isURI)},
	{"description", "must have 256 characters at most, none of them NUL", func(s contract.Spec) bool { return isDescription(s.Description) }},
	{"tags", "must have 64 entries at most", func(s contract.Spec) bool { return len(s.Tags) <= maxTags }},
	{"models", "is required for an LLM function", func(s contract.Spec) bool { return s.FunctionType != contract.LLM || len(s.Models) > 0 }},
	{"models", "must have names that differ", func(s contract.Spec) bool {
		return allDiffer(s.Models, func(a contract.Artifact) string { return a.Name })
	}},
	{"telemetries", "must have one of logsTelemetryId, metricsTelemetryId and tracesTelemetryId", func(s contract.Spec) bool {
		return s.Telemetries == nil || *s.Telemetries != contract.Telemetries{}
	}},
	{"llmInvocationConfig", "is for LLM functions only", func(s contract.Spec) bool { return s.FunctionType == contract.LLM || s.LLMInvocationConfig == nil }},
}

var healthRules = []rule[contract.Health]{
	{"protocol", "is required: HTTP or gRPC", func(h contract.Health) bool {
		return strings.EqualFold(h.Protocol, "HTTP") || strings.EqualFold(h.Protocol, "gRPC")
	}},
	{"uri", "is required: a URI such as /health, without spaces", func(h contract.Health) bool { return isURI(h.URI) }},
	{"port", "is required: a port, 1 to 65535", func(h contract.Health) bool { return h.Port > 0 && h.Port <= maxPort }},
	{"timeout", "is required: an ISO-8601 duration greater than zero, such as PT10S", func(h contract.Health) bool { return isDuration(h.Timeout) }},
	{"expectedStatusCode", "is required: an HTTP status, 100 to 599", func(h contract.Health) bool { return h.ExpectedStatusCode >= 100 && h.ExpectedStatusCode <= 599 }},
}

var environmentRules = []rule[contract.EnvironmentEntry]{
	{"key", "is required: a name without spaces, control characters and equals signs", func(e contract.EnvironmentEntry) bool { return isVariable(e.Key) }},
	{"key", "must not begin with NVCF_: that prefix is reserved for the platform", func(e contract.EnvironmentEntry) bool {
		return len(e.Key) < len(reservedPrefix) || !strings.EqualFold(e.Key[:len(reservedPrefix)], reservedPrefix)
	}},
	{"value", "is required, without NUL", func(e contract.EnvironmentEntry) bool { return e.Value != "" && !strings.ContainsRune(e.Value, 0) }},
}

var resourceRules = []rule[contract.Artifact]{
	{"name", "is required", func(a contract.Artifact) bool { return isText(a.Name) }},
	{"version", "is required", func(a contract.Artifact) bool { return isText(a.Version) }},
	{"uri", "is required: a URI, without spaces", func(a contract.Artifact) bool { return isURI(a.URI) }},
	{"uri", "must be the files of the artifact, not the zip of them", func(a contract.Artifact) bool { return !isZip(a.URI) }},
}

var llmModelRules = []rule[contract.Artifact]{
	{"name", "is required", func(a contract.Artifact) bool { return isText(a.Name) }},
	{"uri", "must be a URI, without spaces", optional(func(a contract.Artifact) string { return a.URI }, isURI)},
	{"uri", "must be the files of the artifact, not the zip of them", func(a contract.Artifact) bool { return !isZip(a.URI) }},
	{"llmConfig", "is required for the models of an LLM function", func(a contract.Artifact) bool { return a.LLMConfig != nil }},
	{"llmConfig.uris", "is required: the paths that the model serves, such as /v1/chat/completions", func(a contract.Artifact) bool {
		return a.LLMConfig == nil || len(a.LLMConfig.URIs) > 0 && !slices.ContainsFunc(a.LLMConfig.URIs, func(s string) bool { return !isURI(s) })
	}},
}

var llmConfigRules = []rule[contract.LLMConfig]{
	{"tokenRateLimit", "must be rates such as 1000-S,20000-M with units S, M, H, D and W, each once", optional(func(l contract.LLMConfig) string { return l.TokenRateLimit }, isTokenRate)},
	{"routingMethod", "must be one of " + strings.Join(routingMethods, ", "), optional(func(l contract.LLMConfig) string { return l.RoutingMethod }, isRoutingMethod)},
}

var telemetryRules = []rule[contract.Telemetries]{
	{"logsTelemetryId", "must be a UUID", optional(func(t contract.Telemetries) string { return t.Logs }, isUUID)},
	{"metricsTelemetryId", "must be a UUID", optional(func(t contract.Telemetries) string { return t.Metrics }, isUUID)},
	{"tracesTelemetryId", "must be a UUID", optional(func(t contract.Telemetries) string { return t.Traces }, isUUID)},
}

const rateText = "must be rates such as 100-S,2000-M with units S, M, H and D, each once"

var rateRules = []rule[contract.RateLimit]{
	{"", "must have one of rateLimit, perNcaIdRate and perUserRate", func(r contract.RateLimit) bool {
		return r.RateLimit != "" || len(r.PerNCAIDRate) > 0 || r.PerUserRate != ""
	}},
	{"rateLimit", rateText, optional(func(r contract.RateLimit) string { return r.RateLimit }, isRate)},
	{"perUserRate", rateText, optional(func(r contract.RateLimit) string { return r.PerUserRate }, isRate)},
	{"exemptedNcaIds", "must have 32 entries at most, none of them blank", func(r contract.RateLimit) bool {
		return len(r.ExemptedNCAIDs) <= maxAccounts && !slices.ContainsFunc(r.ExemptedNCAIDs, func(s string) bool { return !isText(s) })
	}},
	{"exemptedNcaIds", "needs rateLimit", func(r contract.RateLimit) bool { return len(r.ExemptedNCAIDs) == 0 || r.RateLimit != "" }},
	{"exemptedNcaIds", "must not overlap with perNcaIdRate", func(r contract.RateLimit) bool {
		return !slices.ContainsFunc(r.ExemptedNCAIDs, func(account string) bool { _, both := r.PerNCAIDRate[account]; return both })
	}},
	{"perNcaIdRate", "must have 32 entries at most, none of them blank", func(r contract.RateLimit) bool {
		_, blank := r.PerNCAIDRate[""]
		return len(r.PerNCAIDRate) <= maxAccounts && !blank
	}},
}

var secretRules = []rule[contract.Secret]{
	{"name", "is required: 1 to 48 letters, digits, underscores, dots and hyphens, the first a letter or digit", func(s contract.Secret) bool { return secretPattern.MatchString(s.Name) }},
	{"value", "is required: a string or a JSON object of 1 to 32768 characters", func(s contract.Secret) bool { return isSecretValue(s.Value) }},
}

// checker collects violations and stops at a number that an answer can hold.
type checker struct {
	*problem.Check
	found int
}

func newChecker(object string) *checker { return &checker{Check: problem.NewCheck(object)} }

func (c *checker) refuse(field, text string) {
	if c.found++; c.found <= maxViolations {
		c.Require(false, short(field), "%s", text)
	}
}

// apply holds value, which stands at the path at, against every rule.
func apply[T any](c *checker, at string, rules []rule[T], value T) {
	for _, r := range rules {
		if c.found >= maxViolations {
			return
		}
		if !r.holds(value) {
			c.refuse(join(at, r.field), r.text)
		}
	}
}

func applyEach[T any](c *checker, at string, rules []rule[T], values []T) {
	for i, v := range values {
		apply(c, fmt.Sprintf("%s[%d]", at, i), rules, v)
	}
}

func join(at, field string) string {
	if at == "" || field == "" {
		return at + field
	}
	return at + "." + field
}

// validate holds a normalised specification and its secrets against every rule that needs no look at other data.
func validate(s contract.Spec, r contract.CreateRequest) error {
	c := newChecker("function")
	secrets := r.Secrets
	if !isUtils(r.UtilsContainerImage) {
		c.refuse("utilsContainerImage", "must be GO, PYTHON or an image reference")
	}
	checkIdempotencyKey(c, r.IdempotencyKey)
	apply(c, "", specRules, s)
	if s.Health != nil {
		apply(c, "health", healthRules, *s.Health)
	}
	applyEach(c, "containerEnvironment", environmentRules, s.ContainerEnvironment)
	checkTags(c, s.Tags)
	models := resourceRules
	if s.FunctionType == contract.LLM {
		models = llmModelRules
	}
	applyEach(c, "models", models, s.Models)
	for i, m := range s.Models {
		if m.LLMConfig != nil {
			apply(c, fmt.Sprintf("models[%d].llmConfig", i), llmConfigRules, *m.LLMConfig)
		}
	}
	applyEach(c, "resources", resourceRules, s.Resources)
	if s.Telemetries != nil {
		apply(c, "telemetries", telemetryRules, *s.Telemetries)
	}
	checkRate(c, s.RateLimit)
	if s.LLMInvocationConfig != nil {
		checkPriorities(c, s.LLMInvocationConfig)
	}
	applyEach(c, "secrets", secretRules, secrets)
	if !allDiffer(secrets, func(s contract.Secret) string { return s.Name }) {
		c.refuse("secrets", "must have names that differ")
	}
	return c.Err()
}

func isUtils(s string) bool {
	s = unblank(s)
	return s == "" || strings.EqualFold(s, "GO") || strings.EqualFold(s, "PYTHON") || isImage(s)
}

func checkIdempotencyKey(c *checker, key string) {
	if len(key) > maxIdempotencyKey || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		c.refuse("Idempotency-Key", fmt.Sprintf("must have %d printable ASCII characters at most", maxIdempotencyKey))
	}
}

func changesNothing(r contract.UpdateRequest) bool {
	return r.Tags == nil && r.Description == nil && r.RateLimit == nil && len(r.ModelUpdates) == 0 && r.LLMInvocationConfig == nil
}

// validateUpdate does the same for the members that may change.
func validateUpdate(r contract.UpdateRequest) error {
	c := newChecker("function")
	if changesNothing(r) {
		c.refuse("body", "must have one of tags, description, rateLimit, modelUpdates and llmInvocationConfig")
	}
	if r.Tags != nil {
		if len(*r.Tags) > maxTags {
			c.refuse("tags", "must have 64 entries at most")
		}
		checkTags(c, *r.Tags)
	}
	if r.Description != nil && !isDescription(*r.Description) {
		c.refuse("description", "must have 256 characters at most, none of them NUL")
	}
	checkRate(c, r.RateLimit)
	if r.LLMInvocationConfig != nil {
		checkPriorities(c, r.LLMInvocationConfig)
	}
	for i, m := range r.ModelUpdates {
		at := fmt.Sprintf("modelUpdates[%d]", i)
		if !isText(m.ModelName) {
			c.refuse(at+".modelName", "is required")
		}
		if m.LLMConfig.TokenRateLimit == "" && m.LLMConfig.RoutingMethod == "" {
			c.refuse(at+".llmConfig", "must have one of tokenRateLimit and routingMethod")
		}
		apply(c, at+".llmConfig", llmConfigRules, m.LLMConfig)
	}
	if !allDiffer(r.ModelUpdates, func(m contract.ModelUpdate) string { return m.ModelName }) {
		c.refuse("modelUpdates", "must have model names that differ")
	}
	return c.Err()
}

func checkTags(c *checker, tags []string) {
	for i, tag := range tags {
		if !tagPattern.MatchString(tag) {
			c.refuse(fmt.Sprintf("tags[%d]", i), fmt.Sprintf("must have 1 to %d letters, digits, hyphens, underscores, colons and equals signs", maxTag))
		}
	}
}

func checkRate(c *checker, r *contract.RateLimit) {
	if r == nil {
		return
	}
	apply(c, "rateLimit", rateRules, *r)
	for _, account := range slices.Sorted(maps.Keys(r.PerNCAIDRate)) {
		if !isRate(r.PerNCAIDRate[account]) {
			c.refuse("rateLimit.perNcaIdRate["+account+"]", rateText)
		}
	}
}

// checkPriorities reads §2.5.2. Unknown members are ignored, as everywhere in a request.
func checkPriorities(c *checker, config json.RawMessage) {
	const at = "llmInvocationConfig"
	var read struct {
		Priority *struct {
			Default    *uint32            `json:"defaultPriority"`
			PerAccount map[string]*uint32 `json:"perAccountPriority"`
		} `json:"priority"`
	}
	if bytes.TrimSpace(config)[0] != '{' || json.Unmarshal(config, &read) != nil {
		c.refuse(at, "must be an object whose priorities are whole numbers from 0 to 4294967295")
		return
	}
	if read.Priority == nil {
		return
	}
	if len(read.Priority.PerAccount) > maxPriorities {
		c.refuse(at+".priority.perAccountPriority", "must have 64 entries at most")
	}
	if len(read.Priority.PerAccount) > 0 && read.Priority.Default == nil {
		c.refuse(at+".priority.defaultPriority", "is required beside perAccountPriority")
	}
}

// id checks an id of a path and returns it in the spelling that answers use.
func id(field, value string) (string, error) {
	if !isUUID(value) {
		c := newChecker("path")
		c.refuse(field, "must be a UUID")
		return "", c.Err()
	}
	return strings.ToLower(value), nil
}

// optional makes a rule hold for an absent text.
func optional[T any](text func(T) string, holds func(string) bool) func(T) bool {
	return func(v T) bool { s := text(v); return s == "" || holds(s) }
}

func allDiffer[T any](list []T, key func(T) string) bool {
	seen := make(map[string]bool, len(list))
	for _, v := range list {
		seen[key(v)] = true
	}
	return len(seen) == len(list)
}

func isText(s string) bool { return strings.TrimSpace(s) != "" && !strings.ContainsRune(s, 0) }

func isDescription(s string) bool {
	return utf8.RuneCountInString(s) <= maxDescription && !strings.ContainsRune(s, 0)
}

func isUUID(s string) bool { return len(s) == 36 && uuid.Validate(s) == nil }

// isURI takes what a strict parser takes: Go's own lets spaces and quotes pass.
func isURI(s string) bool {
	if s == "" || strings.ContainsAny(s, "\"<>\\^`{|}") || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return false
	}
	_, err := url.Parse(s)
	return err == nil
}

func isZip(uri string) bool { return zipPattern.MatchString(uri) }

// isImage asks only for the form. Whether the image exists is the business of the node that pulls it, so that a site
// without a way out can register functions.
func isImage(s string) bool {
	_, err := reference.ParseNormalizedNamed(s)
	return err == nil
}

func isVariable(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r == '=' || unicode.IsSpace(r) || unicode.IsControl(r) })
}

// isArguments follows the quotes of a shell's argument line to their ends.
func isArguments(s string) bool {
	var quote rune
	escaped := false
	for _, r := range s {
		switch {
		case r == 0:
			return false
		case escaped:
			escaped = false
		case r == '\\' && quote != '\'':
			escaped = true
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case r == quote:
			quote = 0
		}
	}
	return quote == 0 && !escaped
}

// durationPattern has the largest unit that needs no calendar first, as in P1DT2H3M4.5S. Nine digits of each are more
// than any probe waits.
var durationPattern = regexp.MustCompile(`(?i)^P(?:\d{1,9}D)?(?:T(?:\d{1,9}H)?(?:\d{1,9}M)?(?:\d{1,9}(?:[.,]\d{1,9})?S)?)?$`)

func isDuration(s string) bool {
	return durationPattern.MatchString(s) && !strings.HasSuffix(strings.ToUpper(s), "T") && strings.ContainsAny(s, "123456789")
}

func isRate(s string) bool { return isRates(s, ratePattern) }

func isTokenRate(s string) bool { return isRates(s, tokensPattern) }

// isRates adds to a pattern what Go's patterns cannot say: each unit once, and a count that a limiter can hold.
func isRates(s string, pattern *regexp.Regexp) bool {
	if !pattern.MatchString(s) {
		return false
	}
	units := map[string]bool{}
	for part := range strings.SplitSeq(s, ",") {
		count, unit, _ := strings.Cut(strings.TrimSpace(part), "-")
		if _, err := strconv.ParseInt(count, 10, 64); err != nil || units[unit] {
			return false
		}
		units[unit] = true
	}
	return true
}

func isRoutingMethod(s string) bool {
	return slices.Contains(routingMethods, strings.ReplaceAll(strings.ToLower(s), "_", "-"))
}

// isSecretValue measures a string by its trimmed content, an object by its text.
func isSecretValue(v json.RawMessage) bool {
	text := strings.TrimSpace(string(v))
	switch {
	case strings.HasPrefix(text, `"`):
		var s string
		if json.Unmarshal(v, &s) != nil {
			return false
		}
		text = strings.TrimSpace(s)
	case !strings.HasPrefix(text, "{") || !json.Valid(v):
		return false
	}
	n := utf8.RuneCountInString(text)
	return n >= 1 && n <= maxSecret
}

// short cuts a path that quotes the request.
func short(field string) string {
	if len(field) <= maxField {
		return field
	}
	return strings.ToValidUTF8(field[:maxField], "") + "…"
}
