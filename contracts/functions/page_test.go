package functions

import (
	"encoding/json"
	"testing"
)

func TestPagesComeApartAsTheyWereMade(t *testing.T) {
	t.Parallel()
	total := 7
	for _, head := range []PageHead{{}, {NextCursor: "abc_-"}, {Total: &total}, {NextCursor: "x", Total: &total}} {
		for _, elements := range []string{``, `"a","b"`, `{"name":"\"functions\":[ ]}"}`} {
			page, err := RenderPage("functions", head, []byte(elements))
			if err != nil || !json.Valid(page) {
				t.Fatalf("%s: %v", page, err)
			}
			got, cut, err := ParsePage("functions", page)
			if err != nil || string(cut) != elements || got.NextCursor != head.NextCursor || (got.Total == nil) != (head.Total == nil) {
				t.Fatalf("%s: %+v %s %v", page, got, cut, err)
			}
		}
	}
}

func FuzzParsePage(f *testing.F) {
	f.Add([]byte(`{"nextCursor":"a","functions":[1]}`))
	f.Add([]byte(`"functions":[]}`))
	f.Fuzz(func(_ *testing.T, page []byte) { _, _, _ = ParsePage("functions", page) })
}
