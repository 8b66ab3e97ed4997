package keys

import "time"

// ConsoleDomain is the domain of an install that does not name its own with SIROCCO_CONSOLE_DOMAIN. The keys service,
// which signs the tokens of the access API, and the gateway, which verifies them, must be given the same one.
const ConsoleDomain = "sirocco.local"

// ConsoleTokenLife is how long an access token of the access API (keys §9.6) is valid.
const ConsoleTokenLife = time.Hour

// ConsoleIssuer is the iss claim of the tokens of the access API, compared exactly. Their sub is the id of a user or
// an application, their account the claim ncaId, and their aud holds [TokenAudience] as an administrator token's does.
func ConsoleIssuer(domain string) string { return "https://console." + domain }
