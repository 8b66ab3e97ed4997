package deployments

import (
	"encoding/json"
	"math"
	"regexp"
	"strconv"
	"time"

	"github.com/sirocco-cloud/sirocco/contracts/problem"
)

// autoscaling is what §11.2 lets a client say; it is validated here and kept as it was sent.
type autoscaling struct {
	Up   *scaling `json:"scaleUpDetails"`
	Down *scaling `json:"scaleDownDetails"`
}

type scaling struct {
	Metric     *string      `json:"metric"`
	Factor     *float64     `json:"factor"`
	Threshold  *json.Number `json:"threshold"`
	Stickiness *stickiness  `json:"stickiness"`
}

type stickiness struct {
	Size      *string `json:"size"`
	Threshold *string `json:"threshold"`
}

// Policies of a PATCH (§11.2).
const (
	customConfiguration   = "CUSTOM_CONFIGURATION"
	platformConfiguration = "PLATFORM_CONFIGURATION"
)

const longestSticky = time.Hour

func validAutoscaling(check *problem.Check, field string, raw json.RawMessage) {
	if len(raw) == 0 {
		return
	}
	if nul(raw) {
		check.Require(false, field, "must not hold the character U+0000")
		return
	}
	var a *autoscaling
	if err := json.Unmarshal(raw, &a); err != nil || a == nil {
		check.Require(false, field, "must be an object with scaleUpDetails and scaleDownDetails: %v", err)
		return
	}
	validScaling(check, field+".scaleUpDetails", a.Up, func(f float64) bool { return f > 1 }, "must be greater than 1.0")
	validScaling(check, field+".scaleDownDetails", a.Down, func(f float64) bool { return f > 0 && f < 1 }, "must be greater than 0 and less than 1.0")
}

func validScaling(check *problem.Check, at string, s *scaling, factor func(float64) bool, rule string) {
	if s == nil {
		return
	}
	check.Require(s.Factor != nil, at+".factor", "must be given")
	check.Require(s.Factor == nil || factor(*s.Factor), at+".factor", "%s", rule)
	check.Require(s.Threshold != nil, at+".threshold", "must be given")
	if s.Threshold != nil {
		n, err := strconv.ParseInt(s.Threshold.String(), 10, 64)
		check.Require(err == nil && n >= 0, at+".threshold", "must be an integer of at least 0")
	}
	check.Require(s.Metric == nil || len(*s.Metric) <= maxName, at+".metric", "must be at most %d bytes", maxName)
	if s.Stickiness == nil {
		return
	}
	size, sized := validDuration(check, at+".stickiness.size", s.Stickiness.Size)
	threshold, bounded := validDuration(check, at+".stickiness.threshold", s.Stickiness.Threshold)
	check.Require(size.Round(time.Minute) <= longestSticky, at+".stickiness.size", "must be at most PT1H")
	check.Require(!sized || !bounded || threshold < size, at+".stickiness.threshold", "must be less than size")
}

func validDuration(check *problem.Check, field string, text *string) (d time.Duration, ok bool) {
	check.Require(text != nil, field, "must be given")
	if text == nil {
		return 0, false
	}
	d, ok = parseISO(*text)
	check.Require(ok, field, "must be an ISO-8601 duration of days and smaller, such as PT10M")
	return d, ok
}

var iso = regexp.MustCompile(`^P(?:(\d{1,6})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,6})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?)?$`)

// parseISO reads an ISO-8601 duration without years and months, whose length is not fixed.
func parseISO(text string) (time.Duration, bool) {
	m := iso.FindStringSubmatch(text)
	if m == nil || text[len(text)-1] == 'T' || text == "P" {
		return 0, false
	}
	var seconds float64
	for n, unit := range []float64{24 * 3600, 3600, 60, 1} {
		if part := m[n+1]; part != "" {
			value, err := strconv.ParseFloat(part, 64)
			if err != nil {
				return 0, false
			}
			seconds += value * unit
		}
	}
	if seconds > math.MaxInt64/float64(time.Second)/2 {
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)), true
}
