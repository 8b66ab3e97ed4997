package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// genesis is the previous hash of the first record of a chain.
var genesis = strings.Repeat("0", 2*sha256.Size)

// link is the hash of a record: SHA-256 over the previous hash and the canonical form of the envelope.
func link(prev string, envelope []byte) (string, error) {
	c, err := canonical(envelope)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	h.Write([]byte(prev))
	h.Write(c)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// canonical is a JSON text with the members of every object sorted by name, no space between tokens, and numbers as
// they were written. Equal documents have one canonical form, whoever wrote them.
func canonical(text []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("canonical form: %w", err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("canonical form: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
