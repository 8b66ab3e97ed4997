package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
)

// comments are the doc comments of the contract packages, and the values of their string types.
type comments struct {
	// types and values by <package>.<Type>, members by <package>.<Type>.<JSON name>.
	types, members map[string]string
	values         map[string][]string
}

// readComments parses contracts.
func readComments(root string) (comments, error) {
	c := comments{types: map[string]string{}, members: map[string]string{}, values: map[string][]string{}}
	err := eachFile(filepath.Join(root, "contracts"), func(path string, file *ast.File) {
		c.read(filepath.Base(filepath.Dir(path)), file)
	})
	return c, err
}

func (c comments) read(pkg string, file *ast.File) {
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range decl.Specs {
			switch spec := s.(type) {
			case *ast.TypeSpec:
				name := pkg + "." + spec.Name.Name
				c.types[name] = sentence(decl.Doc, spec.Doc)
				if st, ok := spec.Type.(*ast.StructType); ok {
					c.readFields(name, st)
				}
			case *ast.ValueSpec:
				if typ, ok := spec.Type.(*ast.Ident); ok && decl.Tok == token.CONST {
					for _, v := range spec.Values {
						if lit, ok := v.(*ast.BasicLit); ok && lit.Kind == token.STRING {
							if text, err := strconv.Unquote(lit.Value); err == nil {
								c.values[pkg+"."+typ.Name] = append(c.values[pkg+"."+typ.Name], text)
							}
						}
					}
				}
			}
		}
	}
}

func (c comments) readFields(name string, st *ast.StructType) {
	for _, f := range st.Fields.List {
		text := sentence(f.Doc, f.Comment)
		if f.Tag == nil || text == "" {
			continue
		}
		tag, err := strconv.Unquote(f.Tag.Value)
		if err != nil {
			continue
		}
		member, _, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
		c.members[name+"."+member] = text
	}
}

// eachFile parses the Go files below a folder, except tests.
func eachFile(dir string, do func(path string, file *ast.File)) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err == nil {
			do(path, file)
		}
		return err
	})
}

// sentence joins comments into one line.
func sentence(groups ...*ast.CommentGroup) string {
	var parts []string
	for _, g := range groups {
		if g != nil {
			parts = append(parts, strings.Fields(g.Text())...)
		}
	}
	return strings.Join(parts, " ")
}
