// Package apply decides how a function becomes what a file says it should be. It reads the documents of a file and
// compares each with what there is; the result is a list of steps. Nothing here talks to anybody: the command line looks
// and carries out, so that every rule can be tested as a table, and a dry run is the same plan not carried out.
//
// A document is the body that creates a function (functions-deployments §2.5) with, beside it, the member
// deploymentSpecifications of the body that deploys it (§11.1). Of tags, description, rateLimit, llmInvocationConfig,
// secrets and deploymentSpecifications, those that a document does not have are left as they are; everything else that
// it does not have means the platform's default.
package apply

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/sirocco-cloud/sirocco/contracts/deployments"
	"github.com/sirocco-cloud/sirocco/contracts/functions"
)

// Document is one function as it should be.
type Document struct {
	// Kind is "function" or absent.
	Kind string `json:"kind,omitempty"`
	// FunctionID says which function is meant; without it, the one of that name.
	FunctionID string `json:"functionId,omitempty"`
	functions.Spec
	Secrets        []Secret                     `json:"secrets,omitempty"`
	Specifications *[]deployments.Specification `json:"deploymentSpecifications,omitempty"`
}

// Secret names a secret and says where its value is. Values are read when they are sent and not before.
type Secret struct {
	Name string `json:"name"`
	// Exactly one of these holds the value, or says where it is.
	Value json.RawMessage `json:"value,omitempty"`
	File  string          `json:"file,omitempty"`
	Env   string          `json:"env,omitempty"`
}

// maxDocuments bounds a file.
const maxDocuments = 1000

// Parse reads the documents of a file, which is YAML or JSON.
func Parse(content []byte) ([]Document, error) {
	values, err := split(content)
	if err != nil {
		return nil, err
	}
	var documents []Document
	for i, value := range values {
		d, err := decode(value)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		documents = append(documents, d)
	}
	if len(documents) == 0 {
		return nil, errors.New("there is no document in it")
	}
	return documents, nil
}

// split returns each document as JSON. JSON is read as JSON, because YAML refuses its tabs.
func split(content []byte) ([][]byte, error) {
	trimmed := bytes.TrimSpace(content)
	var values [][]byte
	if bytes.HasPrefix(trimmed, []byte("{")) {
		decoder := json.NewDecoder(bytes.NewReader(trimmed))
		for {
			var value json.RawMessage
			err := decoder.Decode(&value)
			if errors.Is(err, io.EOF) {
				return values, nil
			}
			if err != nil {
				return nil, fmt.Errorf("it is no JSON: %w", err)
			}
			if values = append(values, value); len(values) > maxDocuments {
				return nil, fmt.Errorf("it has more than %d documents", maxDocuments)
			}
		}
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var value any
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			return values, nil
		}
		if err != nil {
			return nil, fmt.Errorf("it is no YAML: %w", err)
		}
		if value == nil {
			continue // nothing between two separators
		}
		text, err := json.Marshal(value)
		if err != nil {
			return nil, errors.New("a YAML map has keys that are no text; put them in quotes")
		}
		if values = append(values, text); len(values) > maxDocuments {
			return nil, fmt.Errorf("it has more than %d documents", maxDocuments)
		}
	}
}

func decode(value []byte) (Document, error) {
	var d Document
	decoder := json.NewDecoder(bytes.NewReader(value))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return d, readable(err)
	}
	switch {
	case d.Kind != "" && !strings.EqualFold(d.Kind, "function"):
		return d, fmt.Errorf("kind %q is not known; it is function, or left out", d.Kind)
	case d.Name == "":
		return d, errors.New("name is missing")
	}
	names := map[string]bool{}
	for i, s := range d.Secrets {
		sources := 0
		for _, given := range []bool{len(s.Value) > 0 && string(s.Value) != "null", s.File != "", s.Env != ""} {
			if given {
				sources++
			}
		}
		switch {
		case s.Name == "":
			return d, fmt.Errorf("secrets[%d].name is missing", i)
		case names[s.Name]:
			return d, fmt.Errorf("secrets[%d].name %q is there twice", i, s.Name)
		case sources != 1:
			return d, fmt.Errorf("secrets[%d] (%s) must have one of file, env and value", i, s.Name)
		}
		names[s.Name] = true
	}
	return d, nil
}

// readable says what is wrong in the words of the file, not of Go.
func readable(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		want := map[string]string{"string": "text; put it in quotes", "int": "a whole number", "bool": "true or false"}[wrong.Type.String()]
		if want == "" && strings.HasPrefix(wrong.Type.String(), "[]") {
			want = "a list"
		}
		if want == "" {
			want = "an object"
		}
		if wrong.Field == "" {
			return errors.New("it must be an object")
		}
		return fmt.Errorf("%s must be %s, not a %s", wrong.Field, want, wrong.Value)
	}
	if _, name, ok := strings.Cut(err.Error(), "unknown field "); ok {
		return fmt.Errorf("member %s is not known; the members are those of the API", name)
	}
	return err
}
