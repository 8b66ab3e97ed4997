package functions

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// A page of a list is JSON whose last member is the array, so that whoever passes a list on can cut the elements out
// without reading them.

// PageHead is what stands in front of the array.
type PageHead struct {
	NextCursor string `json:"nextCursor,omitempty"`
	Total      *int   `json:"total,omitempty"`
}

// RenderPage writes a page: elements are JSON texts with commas between them.
func RenderPage(member string, head PageHead, elements []byte) ([]byte, error) {
	text, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	page := make([]byte, 0, len(text)+len(member)+len(elements)+8)
	page = append(page, text[:len(text)-1]...)
	if len(text) > len("{}") {
		page = append(page, ',')
	}
	page = append(page, '"')
	page = append(page, member...)
	page = append(page, `":[`...)
	page = append(page, elements...)
	return append(page, "]}"...), nil
}

// ParsePage is the inverse of RenderPage. The elements share the memory of page.
func ParsePage(member string, page []byte) (head PageHead, elements []byte, err error) {
	text, rest, found := bytes.Cut(page, []byte(`"`+member+`":[`))
	elements, closed := bytes.CutSuffix(rest, []byte("]}"))
	if !found || !closed {
		return head, nil, fmt.Errorf("page: not a page of %s", member)
	}
	text = append(bytes.TrimSuffix(bytes.Clone(text), []byte(",")), '}')
	if err := json.Unmarshal(text, &head); err != nil {
		return head, nil, fmt.Errorf("page: %w", err)
	}
	return head, elements, nil
}
