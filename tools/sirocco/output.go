package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// ask makes a management call and decodes its answer; raw is the answer as it came.
func ask[T any](ctx context.Context, c *client.Client, r client.Request) (answer T, raw []byte, err error) {
	if raw, err = c.Answer(ctx, r); err != nil {
		return answer, nil, err
	}
	if len(raw) == 0 {
		return answer, raw, nil
	}
	if err = json.Unmarshal(raw, &answer); err != nil {
		return answer, nil, next(fmt.Errorf("%s%s answered with something else than expected: %w", c.URL(), r.Path, err),
			"check that --url names a Sirocco gateway of this version")
	}
	return answer, raw, nil
}

// show prints an answer: as it came, indented, or as a person wants to read it.
func (s *session) show(raw []byte, table func(io.Writer) error) error {
	if s.output != formatJSON {
		return table(s.out)
	}
	return writeJSON(s.out, raw)
}

func writeJSON(w io.Writer, raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// writeTable aligns rows under a header; an empty header is left out.
func writeTable(w io.Writer, header []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	if len(header) > 0 {
		rows = append([][]string{header}, rows...)
	}
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = printable(cell)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// printable keeps what others wrote from steering the terminal that it is shown on.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t', r == '\n':
			return ' '
		case unicode.IsControl(r), r == '\u2028', r == '\u2029':
			return '\uFFFD'
		}
		return r
	}, text)
}

// shown is a moment as tables have it.
func shown(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime) //nolint:gosmopolitan // a person reads it in their own time
}

// orDash fills an empty cell.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// count is "1 version" or "3 versions".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
