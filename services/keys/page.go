package keys

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"

	contract "github.com/sirocco-cloud/sirocco/contracts/keys"
)

// pageLimit is how many elements a page has: what was asked for, or most.
func pageLimit(p contract.Page, most int) (int, error) {
	switch {
	case p.Limit == nil:
		return most, nil
	case *p.Limit < 1 || *p.Limit > most:
		return 0, invalid("limit", "must be between 1 and %d", most)
	}
	return *p.Limit, nil
}

// cursor is the place as clients carry it to the next page.
func (p place) cursor() string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(p.at.UnixMicro(), 36) + "." + p.id))
}

// pageStart is the place that a cursor holds; without one, the beginning.
func pageStart(p contract.Page) (place, error) {
	if p.Cursor == "" {
		return place{}, nil
	}
	at, id, err := splitCursor(p.Cursor)
	if err != nil || !isUUID(id) {
		return place{}, badCursor()
	}
	return place{at: at, id: id}, nil
}

func splitCursor(cursor string) (at time.Time, id string, err error) {
	text, err := strict.DecodeString(cursor)
	if err != nil {
		return at, "", badCursor()
	}
	micros, id, _ := strings.Cut(string(text), ".")
	n, err := strconv.ParseInt(micros, 36, 64)
	if err != nil || n < 0 || n > lastMoment {
		return at, "", badCursor()
	}
	return time.UnixMicro(n).UTC(), id, nil
}

// lastMoment is the year 9999 in microseconds, within what the database can hold.
const lastMoment = 253_370_764_800_000_000

func badCursor() error { return invalid("cursor", "must be the next_cursor of the page before") }
