package catalogue

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sirocco-cloud/sirocco/contracts/event"
	"github.com/sirocco-cloud/sirocco/contracts/rpc"
)

// parse reads every package of contracts but this one; the key is the folder.
func parse(t *testing.T, root string) map[string][]*ast.File {
	t.Helper()
	packages := map[string][]*ast.File{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err == nil {
			dir := filepath.Base(filepath.Dir(path))
			packages[dir] = append(packages[dir], f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return packages
}

// isMessage reports whether a type is rpc.Endpoint[…], rpc.Event[…] or rpc.Command[…].
func isMessage(e ast.Expr) bool {
	switch x := e.(type) {
	case *ast.IndexExpr:
		e = x.X
	case *ast.IndexListExpr:
		e = x.X
	}
	s, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok := s.X.(*ast.Ident)
	return ok && pkg.Name == "rpc" && slices.Contains([]string{"Endpoint", "Event", "Command"}, s.Sel.Name)
}

// declared finds the package variables that are messages, made in place or by a function of their package.
func declared(files []*ast.File) []string {
	makers := map[string]bool{}
	var names []string
	each(files, func(d ast.Decl) {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Type.Results != nil && isMessage(f.Type.Results.List[0].Type) {
			makers[f.Name.Name] = true
		}
	})
	each(files, func(d ast.Decl) {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			return
		}
		for _, spec := range g.Specs {
			v, ok := spec.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for i, value := range v.Values {
				switch x := value.(type) {
				case *ast.CompositeLit:
					if isMessage(x.Type) {
						names = append(names, v.Names[i].Name)
					}
				case *ast.CallExpr:
					if f, ok := x.Fun.(*ast.Ident); ok && makers[f.Name] {
						names = append(names, v.Names[i].Name)
					}
				}
			}
		}
	})
	return names
}

func each(files []*ast.File, do func(ast.Decl)) {
	for _, f := range files {
		for _, d := range f.Decls {
			do(d)
		}
	}
}

func TestCatalogueIsComplete(t *testing.T) {
	t.Parallel()
	packages := parse(t, "..")
	listed := map[string]int{}
	for _, f := range packages["catalogue"] {
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok || len(lit.Elts) != 2 {
				return true
			}
			name, named := lit.Elts[0].(*ast.BasicLit)
			message, ok := lit.Elts[1].(*ast.SelectorExpr)
			if named && ok {
				variable := fmt.Sprintf("%s.%s", message.X, message.Sel)
				if name.Value != strconv.Quote(variable) {
					t.Errorf("the entry of %s is named %s", variable, name.Value)
				}
				listed[variable]++
			}
			return true
		})
	}
	delete(packages, "catalogue")
	total := 0
	for pkg, files := range packages {
		for _, name := range declared(files) {
			total++
			if n := listed[pkg+"."+name]; n != 1 {
				t.Errorf("%s.%s is declared and listed %d times in Entries", pkg, name, n)
			}
		}
	}
	if total < 50 || total != len(All()) {
		t.Errorf("found %d declarations, All has %d", total, len(All()))
	}
}

func TestNoTwoMessagesAreAlike(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, d := range All() {
		key := d.Type
		if d.Kind == rpc.KindRequest {
			key = d.Subject
		}
		if other, dup := seen[string(d.Kind)+key]; dup {
			t.Errorf("%s and %s are both %s", d.Doc, other, key)
		}
		seen[string(d.Kind)+key] = d.Doc
	}
}

func TestEveryMessageHasAnOwnerAndASentence(t *testing.T) {
	t.Parallel()
	for _, d := range All() {
		if d.Owner == "" || d.Input == nil || d.Kind == rpc.KindRequest && d.Output == nil {
			t.Errorf("%s %s has no owner or no type", d.Kind, d.Type)
		}
		if !strings.HasSuffix(d.Doc, ".") {
			t.Errorf("%s %s: its documentation is not a sentence: %q", d.Kind, d.Type, d.Doc)
		}
		if d.Kind == rpc.KindEvent && !slices.ContainsFunc(event.Domains(), func(domain string) bool { return strings.HasPrefix(d.Subject, "evt."+domain+".") }) {
			t.Errorf("%s is in no stream", d.Type)
		}
	}
}
