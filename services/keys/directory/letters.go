package directory

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strings"
)

const (
	// passwordLetters leave out what is mistaken for something else.
	passwordLetters = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
	// suffixAlphabet is the same in one case, for ids that may be compared without it.
	suffixAlphabet = "abcdefghijkmnpqrstuvwxyz23456789"
	// A temporary password is three groups of four letters, which make 69 bits.
	tempGroups = 3
	groupSize  = 4
	// secretLetters make a secret of 249 bits that needs no quoting anywhere.
	secretLetters = 43
)

// temporary draws a password that can be read out, and its hash.
func (d *Directory) temporary(ctx context.Context) (password, hash string, err error) {
	groups := make([]string, tempGroups)
	for i := range groups {
		if groups[i], err = d.letters(groupSize, passwordLetters); err != nil {
			return "", "", err
		}
	}
	password = strings.Join(groups, "-")
	hash, err = d.hasher.hash(ctx, password)
	return password, hash, err
}

// secret draws the secret of an application, and its hash.
func (d *Directory) secret(ctx context.Context) (secret, hash string, err error) {
	if secret, err = d.letters(secretLetters, passwordLetters); err != nil {
		return "", "", err
	}
	hash, err = d.hasher.hash(ctx, secret)
	return secret, hash, err
}

// letters draws n of at most 256 letters, each as likely as the others.
func (d *Directory) letters(n int, of string) (string, error) {
	fair := 256 - 256%len(of)
	drawn := make([]byte, 0, n)
	for one := make([]byte, 1); len(drawn) < n; {
		if _, err := io.ReadFull(d.random, one); err != nil {
			return "", fmt.Errorf("random source: %w", err)
		}
		if int(one[0]) < fair {
			drawn = append(drawn, of[int(one[0])%len(of)])
		}
	}
	return string(drawn), nil
}

// draw makes n random bytes in base64url.
func (d *Directory) draw(n int) (string, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(d.random, b); err != nil {
		return "", fmt.Errorf("random source: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(b), nil
}
