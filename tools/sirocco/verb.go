package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sirocco-cloud/sirocco/tools/sirocco/client"
)

// verb is a command that is one call of the API. Nouns whose verbs are all alike are tables of these.
type verb struct {
	// use names the command and its arguments, which fill the {placeholders} of path.
	use                  string
	aliases              []string
	short, long, example string

	method, path string
	// argument is the member of the body that the first argument becomes, where the path has no place for it.
	argument string
	members  []member
	// always are members of the body that the verb sends in any case.
	always map[string]any
	// needs is what an administrator's minted token cannot do; nil when it can.
	needs *loan
	// complete fills in what follows from the rest of the body, or says what is wrong with it.
	complete func(body map[string]any) error

	// table is how the answer is shown; one object is shown as a list of its members.
	table table
	// once is the member of the answer that is shown only this time: it alone goes to standard output.
	once string
	// done is the sentence for an answer without a body, or beside once; %s is the first argument.
	done string
}

// place is where a member goes.
type place int

const (
	inBody place = iota
	inQuery
)

// kind is what the text of a flag means.
type kind int

const (
	plainText kind = iota
	wholeNumber
	yesNo
	severalTexts
	inCapitals // several texts, in capitals
	secretFrom // a name and the file or standard input that holds its secret value: NAME=@FILE
	jsonObject // a JSON object, or @FILE that holds one
)

// member is a flag of the command line that becomes a member of the request.
type member struct {
	flag, usage string
	// name is the member's; dots lead into objects.
	name     string
	kind     kind
	place    place
	required bool
}

// noun is a command whose verbs are a table.
func noun(s *session, use, short, long string, verbs []verb, more ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long}
	for _, v := range verbs {
		cmd.AddCommand(v.command(s))
	}
	cmd.AddCommand(more...)
	return cmd
}

func (v verb) command(s *session) *cobra.Command {
	names := strings.Fields(v.use)[1:]
	cmd := &cobra.Command{
		Use: v.use, Aliases: v.aliases, Short: v.short, Long: v.long, Example: v.example,
		Args: arguments(names...), ValidArgsFunction: cobra.NoFileCompletions,
	}
	values := map[string]func() any{}
	for _, m := range v.members {
		values[m.flag] = m.register(cmd)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r := client.Request{Method: v.method, Path: v.path, Query: url.Values{}}
		for i, name := range names {
			r.Path = strings.ReplaceAll(r.Path, "{"+name+"}", escape(args[i]))
		}
		body := map[string]any{}
		maps.Copy(body, v.always)
		if v.argument != "" {
			body[v.argument] = args[0]
		}
		for _, m := range v.members {
			if !cmd.Flags().Changed(m.flag) {
				if m.required {
					return &usage{command: cmd.CommandPath(), err: fmt.Errorf("missing --%s", m.flag)}
				}
				continue
			}
			if err := s.put(m, values[m.flag](), body, r.Query); err != nil {
				return &usage{command: cmd.CommandPath(), err: fmt.Errorf("--%s %w", m.flag, err)}
			}
		}
		if v.complete != nil {
			if err := v.complete(body); err != nil {
				return &usage{command: cmd.CommandPath(), err: err}
			}
		}
		if v.method != http.MethodGet && v.method != http.MethodDelete {
			var err error
			if r.Body, err = json.Marshal(body); err != nil {
				return fmt.Errorf("%s: %w", cmd.CommandPath(), err)
			}
		}
		raw, err := s.answer(cmd.Context(), v.needs, r)
		if err != nil {
			return err
		}
		return s.present(v, args, raw)
	}
	return cmd
}

// register defines the flag and returns how to read it.
func (m member) register(cmd *cobra.Command) func() any {
	flags := cmd.Flags()
	switch m.kind {
	case wholeNumber:
		n := flags.Int(m.flag, 0, m.usage)
		return func() any { return *n }
	case yesNo:
		b := flags.Bool(m.flag, false, m.usage)
		return func() any { return *b }
	case severalTexts:
		l := flags.StringSlice(m.flag, nil, m.usage)
		return func() any { return *l }
	case inCapitals:
		l := flags.StringSlice(m.flag, nil, m.usage)
		return func() any {
			for i, text := range *l {
				(*l)[i] = strings.ToUpper(text)
			}
			return *l
		}
	case plainText, secretFrom, jsonObject:
	}
	t := flags.String(m.flag, "", m.usage)
	return func() any { return *t }
}

// put writes a flag's value where its member goes.
func (s *session) put(m member, value any, body map[string]any, query url.Values) (err error) {
	written := fmt.Sprint(value)
	switch m.kind {
	case secretFrom:
		if value, err = s.secretOf(written); err != nil {
			return err
		}
	case jsonObject:
		if value, err = s.objectOf(written); err != nil {
			return err
		}
	case plainText, wholeNumber, yesNo, severalTexts, inCapitals:
	}
	if m.place == inQuery {
		query.Set(m.name, strings.Trim(fmt.Sprint(value), "[]"))
		return nil
	}
	path := strings.Split(m.name, ".")
	for _, name := range path[:len(path)-1] {
		inner, ok := body[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			body[name] = inner
		}
		body = inner
	}
	body[path[len(path)-1]] = value
	return nil
}

// objectOf is a JSON object of the command line, or of a file after @.
func (s *session) objectOf(value string) (any, error) {
	content := []byte(value)
	if file, ok := strings.CutPrefix(value, "@"); ok {
		var err error
		if content, err = s.readFile(file); err != nil {
			return nil, err
		}
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(content, &object); err != nil {
		return nil, errors.New("must be a JSON object, or @FILE that holds one")
	}
	return json.RawMessage(content), nil
}

// present shows the answer of a verb.
func (s *session) present(v verb, args []string, raw []byte) error {
	if s.output == formatJSON {
		return writeJSON(s.out, raw)
	}
	done := v.done
	if strings.Contains(done, "%s") && len(args) > 0 {
		done = fmt.Sprintf(done, args[0])
	}
	if v.once != "" {
		var answer any
		if err := json.Unmarshal(raw, &answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		value := ""
		for name := range strings.SplitSeq(v.once, "|") {
			value = orDefault(value, cell(at(answer, name)))
		}
		if rows := v.table.members(answer); len(rows) > 0 {
			if err := writeTable(s.err, nil, rows); err != nil {
				return err
			}
		}
		fmt.Fprintln(s.err, printable(done))
		_, err := fmt.Fprintln(s.out, printable(value))
		return err
	}
	if len(v.table.columns) == 0 || len(raw) == 0 {
		_, err := fmt.Fprintln(s.out, printable(orDefault(done, "done")))
		return err
	}
	return s.show(raw, func(w io.Writer) error { return v.table.write(w, raw) })
}
