// Package seal seals the secret fields of a record in Redis, so that who reads Redis, a dump of it or the way to it has no
// token. A [Keyring], or a [File] that follows a file with one, is the Codec of a store and of a manager:
//
//	keys, err := seal.Open("/run/secrets/keyring", seal.FileOptions{})
//	m, err := manager.New(manager.Config{Codec: keys, …})
//
// A sealed value is ASCII, and names its format and its key:
//
//	sealed1.<key id>.<base64url of nonce and ciphertext>
//
// It is AES-256-GCM (NIST SP 800-38D) with a random nonce. Format, key id and the associated data are bound to it: of a
// store these are namespace, environment, field and version, so a value that was moved doesn't open.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// prefix begins every sealed value of this format; a later one has another number.
const prefix = "sealed1."

// formats matches the beginning of what this or a later version has sealed. No access token begins so by chance.
var formats = regexp.MustCompile(`^sealed[0-9]+\.`)

// IsSealed reports whether value looks like one that was sealed, with whatever key and format. "sealed0." is for the codecs of
// others: who has no keys then takes their values for what they are.
func IsSealed(value []byte) bool { return formats.Match(value) }

// encoding has one text for each value, as far as it goes: it passes over line breaks, which decode doesn't.
var encoding = base64.RawURLEncoding.Strict()

// KeyID returns the id of the key that value says it is sealed with; "" where it isn't sealed, or by no format that is known
// here.
func KeyID(value []byte) string {
	id, _, err := split(value)
	if err != nil {
		return ""
	}
	return id
}

// overhead is the length of a nonce and a tag: no sealed value is shorter.
const overhead = 12 + 16

// split takes a sealed value apart.
func split(value []byte) (id string, sealed []byte, err error) {
	if !IsSealed(value) {
		return "", nil, &Error{Err: ErrUnsealed}
	}
	rest, ok := bytes.CutPrefix(value, []byte(prefix))
	if !ok {
		return "", nil, &Error{Err: ErrFormat}
	}
	name, text, _ := bytes.Cut(rest, []byte("."))
	if !idPattern.Match(name) {
		return "", nil, &Error{Err: ErrTampered}
	}
	sealed, err = encoding.DecodeString(string(text))
	if err != nil || len(sealed) < overhead || encoding.EncodeToString(sealed) != string(text) {
		return "", nil, &Error{Err: ErrTampered} // which doesn't name what may be no id
	}
	return string(name), sealed, nil
}

// A Keyring seals with its first key and opens with any. It is immutable and safe for concurrent use.
type Keyring struct {
	ids            []string
	ciphers        map[string]cipher.AEAD
	acceptUnsealed bool
}

// New returns a Keyring of keys, whose first seals. No id and no key may be there twice.
func New(keys ...Key) (*Keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("seal: no key")
	}
	k := &Keyring{ciphers: make(map[string]cipher.AEAD, len(keys))}
	for i, key := range keys {
		if key.material == nil {
			return nil, fmt.Errorf("seal: key %d is none: NewKey makes one", i+1)
		}
		for j, other := range keys[:i] {
			if other.id == key.id {
				return nil, fmt.Errorf("seal: key %d has the id of key %d", i+1, j+1)
			}
			if other.equal(key) {
				return nil, fmt.Errorf("seal: key %d is key %d under another id", i+1, j+1)
			}
		}
		block, err := aes.NewCipher(key.material[:])
		if err != nil {
			return nil, errors.New("seal: no AES-256 here")
		}
		if k.ciphers[key.id], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, errors.New("seal: no AES-GCM here")
		}
		k.ids = append(k.ids, key.id)
	}
	return k, nil
}

// AcceptUnsealed returns a Keyring with the same keys that opens what isn't sealed, too, as it is. It is for the time in
// which sealing is introduced: whoever can write to Redis can have a token of theirs used.
func (k *Keyring) AcceptUnsealed() *Keyring {
	accepting := *k
	accepting.acceptUnsealed = true
	return &accepting
}

// IDs returns the ids of the keys, that of the sealing one first.
func (k *Keyring) IDs() []string { return slices.Clone(k.ids) }

// SealingKey returns the id of the key that seals.
func (k *Keyring) SealingKey() string { return k.ids[0] }

// KeyID is the function [KeyID].
func (*Keyring) KeyID(value []byte) string { return KeyID(value) }

// String names the keys' ids.
func (k *Keyring) String() string { return "keyring of " + strings.Join(k.ids, ", ") }

// GoString is [Keyring.String].
func (k *Keyring) GoString() string { return k.String() }

// Encrypt seals plaintext with the first key. associatedData isn't in the result; it must be the same to open it.
func (k *Keyring) Encrypt(plaintext, associatedData []byte) ([]byte, error) {
	id := k.ids[0]
	sealed := k.ciphers[id].Seal(nil, nil, plaintext, bound(id, associatedData))
	return encoding.AppendEncode([]byte(prefix+id+"."), sealed), nil
}

// Decrypt opens what Encrypt has sealed with any of the keys. The error is an *[Error].
func (k *Keyring) Decrypt(ciphertext, associatedData []byte) ([]byte, error) {
	id, sealed, err := split(ciphertext)
	if errors.Is(err, ErrUnsealed) && k.acceptUnsealed {
		return bytes.Clone(ciphertext), nil
	}
	if err != nil {
		return nil, err
	}
	aead := k.ciphers[id]
	if aead == nil {
		return nil, &Error{KeyID: id, Err: ErrUnknownKey}
	}
	plaintext, err := aead.Open(nil, nil, sealed, bound(id, associatedData))
	if err != nil {
		return nil, &Error{KeyID: id, Err: ErrTampered}
	}
	return plaintext, nil
}

// bound is what a value is bound to: format and key with the associated data. An id has no ".", so no two are alike.
func bound(id string, associatedData []byte) []byte {
	return append([]byte(prefix+id+"."), associatedData...)
}
