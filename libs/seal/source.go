package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Source is where the key-encryption keys of a service come from. An operator's key wins over a file, and a file over
// the database, which protects nothing that lies beside it but keeps every replica of a small install working without a
// shared disk.
type Source struct {
	// Variable is the name of the environment variable, for messages; the one with the suffix _PREVIOUS is its sibling.
	Variable string
	// Given and Previous are the contents of the two variables: 32 bytes in base64, or empty. To rotate, an operator
	// gives every replica the new key as Given and the one before as Previous, and asks for the rotation then.
	Given, Previous string
	// File holds keys in base64, one to a line, the newest first; empty when there is no data directory.
	File string
}

// PreviousSuffix makes the name of the variable that holds the key before.
const PreviousSuffix = "_PREVIOUS"

func (s Source) check() error {
	_, err := s.given()
	return err
}

// given are the keys of the environment.
func (s Source) given() ([]*key, error) {
	var keys []*key
	for _, v := range []struct{ name, text string }{{s.Variable, s.Given}, {s.Variable + PreviousSuffix, s.Previous}} {
		var err error
		if keys, err = appendKey(keys, v.name, v.text); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// keys are all that the source has outside of the database.
func (s Source) keys() ([]*key, error) {
	keys, err := s.given()
	if err != nil || s.File == "" {
		return keys, err
	}
	inFile, err := readFile(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		return keys, nil
	}
	return append(keys, inFile...), err
}

// first is the key of a new install: given, found in the file, or made.
func (s Source) first() (k *key, inDatabase bool, err error) {
	if s.Given != "" {
		given, err := s.given()
		if err != nil {
			return nil, false, err
		}
		return given[0], false, nil
	}
	if s.File != "" {
		found, err := readFile(s.File)
		if err == nil {
			return found[0], false, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, false, err
		}
	}
	if k, err = makeKey(); err != nil || s.File == "" {
		return k, err == nil, err
	}
	k, err = createFile(s.File, k)
	return k, false, err
}

func makeKey() (*key, error) {
	secret := make([]byte, KeySize)
	rand.Read(secret)
	return newKey(secret)
}

// missing tells a person which key to bring and how.
func (s Source) missing(r Record) error {
	variable := s.Variable
	if !r.Current {
		variable += PreviousSuffix
	}
	switch {
	case s.Given != "" && r.Current:
		return fmt.Errorf("%s is not the key %s that sealed the secrets in the database: set that one, the same on every replica, "+
			"or to replace it set it as %s beside the new one", s.Variable, r.Name, s.Variable+PreviousSuffix)
	case s.File != "":
		return fmt.Errorf("the secrets in the database are sealed with the key-encryption key %s, which this replica lacks: set %s, "+
			"or copy %s from the data directory of the replica that has it", r.Name, variable, filepath.Join(filepath.Base(filepath.Dir(s.File)), filepath.Base(s.File)))
	}
	return fmt.Errorf("the secrets in the database are sealed with the key-encryption key %s, which this replica lacks: set %s, "+
		"or bring back the key file in SIROCCO_DATA_DIR", r.Name, variable)
}

// Decode reads a secret of a fixed size from base64, in either alphabet, padded or not; nil when text is empty. The
// error names the setting and never the text.
func Decode(name, text string, size int) ([]byte, error) {
	text = strings.TrimRight(strings.TrimSpace(text), "=")
	if text == "" {
		return nil, nil
	}
	b, err := base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(text))
	got := fmt.Sprintf("%d bytes", len(b))
	if err != nil {
		got = "something that is not base64"
	} else if len(b) == size {
		return b, nil
	}
	return nil, fmt.Errorf("%s: want %d bytes in base64, got %s; make one with: openssl rand -base64 %d", name, size, got, size)
}

// appendKey reads one key, which has the name for messages; an empty text has none.
func appendKey(keys []*key, name, text string) ([]*key, error) {
	secret, err := Decode(name, text, KeySize)
	if err != nil || secret == nil {
		return keys, err
	}
	k, err := newKey(secret)
	if err != nil {
		return nil, err
	}
	return append(keys, k), nil
}

func readFile(path string) ([]*key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the key-encryption key: %w", err)
	}
	var keys []*key
	for line := range strings.Lines(string(bytes.TrimSpace(text))) {
		if keys, err = appendKey(keys, path, line); err != nil {
			return nil, err
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: want %d bytes in base64, got an empty file", path, KeySize)
	}
	return keys, nil
}

// createFile keeps the first key. When another process was faster, its key is returned: a link appears whole or not at
// all, and never replaces a key that something is already sealed with.
func createFile(path string, k *key) (*key, error) {
	draft, err := draftFile(path, []*key{k})
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(draft) }()
	switch err := os.Link(draft, path); {
	case errors.Is(err, fs.ErrExist):
		found, err := readFile(path)
		if err != nil {
			return nil, err
		}
		return found[0], nil
	case err != nil:
		return nil, fmt.Errorf("keep the key-encryption key: %w", err)
	}
	return k, syncDir(filepath.Dir(path))
}

// replaceFile puts other keys into the file, whole or not at all.
func replaceFile(path string, keys []*key) error {
	draft, err := draftFile(path, keys)
	if err != nil {
		return err
	}
	if err := os.Rename(draft, path); err != nil {
		return errors.Join(fmt.Errorf("keep the key-encryption key: %w", err), os.Remove(draft))
	}
	return syncDir(filepath.Dir(path))
}

// draftFile writes keys where only this user reads them, beside the place where they shall be.
func draftFile(path string, keys []*key) (draft string, err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("keep the key-encryption key: %w", err)
	}
	file, err := os.CreateTemp(dir, ".key-*") // 0600 by definition
	if err != nil {
		return "", fmt.Errorf("keep the key-encryption key: %w", err)
	}
	var text strings.Builder
	for _, k := range keys {
		text.WriteString(base64.StdEncoding.EncodeToString(k.secret) + "\n")
	}
	_, err = file.WriteString(text.String())
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("keep the key-encryption key: %w", err), os.Remove(file.Name()))
	}
	return file.Name(), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("keep the key-encryption key: %w", err)
	}
	return nil
}
