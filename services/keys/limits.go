package keys

import (
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/access"
	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
)

const (
	// maxRate bounds each member of a rate limit; more than that is no limit.
	maxRate = 1_000_000
	// maxNetworks bounds the networks of one key, which every request is held against.
	maxNetworks = 64
)

// limit applies the limits that a request sets; absent ones stay as they are.
func (r *record) limit(l contract.Limits) error {
	if l.RateLimit != nil {
		if err := checkRate(*l.RateLimit); err != nil {
			return err
		}
		r.rateLimit = nil
		if *l.RateLimit != (access.RateLimit{}) {
			r.rateLimit = l.RateLimit
		}
	}
	if l.AllowedCIDRs == nil {
		return nil
	}
	networks, err := readNetworks(l.AllowedCIDRs)
	r.cidrs = networks
	return err
}

func checkRate(l access.RateLimit) error {
	for _, member := range []struct {
		field string
		value float64
	}{{"rps", l.RPS}, {"burst", float64(l.Burst)}, {"concurrent", float64(l.Concurrent)}} {
		if math.IsNaN(member.value) || member.value < 0 || member.value > maxRate {
			return invalid("rate_limit."+member.field, "must be between 0 and %d", maxRate)
		}
	}
	if l.Burst > 0 && l.RPS == 0 {
		return invalid("rate_limit.burst", "must come with rps")
	}
	return nil
}

// readNetworks reads addresses and prefixes into canonical prefixes, each once.
func readNetworks(list []string) ([]string, error) {
	if len(list) > maxNetworks {
		return nil, invalid("allowed_cidrs", "must have at most %d elements", maxNetworks)
	}
	networks := make([]string, 0, len(list))
	for _, text := range list {
		prefix, err := netip.ParsePrefix(text)
		if addr, aerr := netip.ParseAddr(text); aerr == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || prefix.Addr().Is4In6() {
			return nil, invalid("allowed_cidrs", "must be networks such as 10.0.0.0/8 or 2001:db8::/32, or addresses")
		}
		if canonical := prefix.Masked().String(); !slices.Contains(networks, canonical) {
			networks = append(networks, canonical)
		}
	}
	return networks, nil
}

// startAt sets the moment before which the key does not work. One that has passed lifts the condition.
func (r *record) startAt(text string, now time.Time) error {
	t, err := moment("not_before", text, now)
	switch {
	case err != nil:
		return err
	case !t.Before(r.expiresAt):
		return invalid("not_before", "must lie before expires_at")
	case !t.After(now):
		r.notBefore = nil
	default:
		r.notBefore = &t
	}
	return nil
}
