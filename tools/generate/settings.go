package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// setting is one environment variable, as the configuration structs declare it.
type setting struct {
	meaning, fallback string
	// readers are the services and libraries whose configuration has it.
	readers []string
}

// settingsPage lists every environment variable with the comment of the field that it fills.
func settingsPage(root string) ([]byte, error) {
	found := map[string]setting{}
	for _, tree := range []string{"libs", "services", "tools/sirocco"} {
		err := eachFile(filepath.Join(root, tree), func(path string, file *ast.File) {
			from := reader(strings.TrimPrefix(filepath.Dir(path), root+string(filepath.Separator)))
			ast.Inspect(file, func(n ast.Node) bool {
				if f, ok := n.(*ast.Field); ok && f.Tag != nil {
					remember(found, f, from)
				}
				return true
			})
		})
		if err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	b.WriteString("# Settings\n\n" + strings.Replace(notice, "from contracts", "from the configuration structs", 1) +
		"Every process takes its settings from the environment; `sirocco up` hands its own to all services. A variable that several\n" +
		"services read should have one value everywhere. Variables with a secret are removed from the environment once they are read.\n\n" +
		"| Variable | Default | Read by | Meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(found)) {
		s := found[name]
		fallback := ""
		if s.fallback != "" {
			fallback = "`" + s.fallback + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, fallback, strings.Join(s.readers, ", "), strings.ReplaceAll(s.meaning, "|", `\|`))
	}
	return b.Bytes(), nil
}

func remember(found map[string]setting, f *ast.Field, reader string) {
	text, err := strconv.Unquote(f.Tag.Value)
	if err != nil {
		return
	}
	tag := reflect.StructTag(text)
	name, _, _ := strings.Cut(tag.Get("env"), ",")
	if !strings.HasPrefix(name, "SIROCCO_") {
		return
	}
	s := found[name]
	if s.meaning == "" {
		s.meaning = sentence(f.Doc, f.Comment)
		if len(f.Names) == 1 {
			s.meaning = strings.TrimPrefix(s.meaning, f.Names[0].Name+" ")
		}
	}
	if s.fallback == "" {
		s.fallback = tag.Get("envDefault")
	}
	if !slices.Contains(s.readers, reader) {
		s.readers = append(s.readers, reader)
		slices.Sort(s.readers)
	}
	found[name] = s
}

// reader names a service by its folder, and everything else by the last one of its path.
func reader(dir string) string {
	parts := strings.Split(filepath.ToSlash(dir), "/")
	if parts[0] == "services" && len(parts) > 1 {
		return parts[1]
	}
	return parts[len(parts)-1]
}
