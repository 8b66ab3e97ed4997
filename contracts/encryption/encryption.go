// Package encryption is what a service that seals secrets tells an operator about the keys that seal them.
package encryption

// Keys tells which key-encryption keys of a service are in use (libs/seal). A rotation is over when Previous is
// empty: then the operator's previous key may leave the environment.
type Keys struct {
	// Current is the id of the key that seals what is stored now.
	Current string `json:"current"`
	// Previous are the ids of keys that still open stored values.
	Previous []string `json:"previous"`
	// Rewrapped counts the values that this request moved under the current key.
	Rewrapped int `json:"rewrapped"`
}
