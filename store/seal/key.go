package seal

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// size is the length of a key in bytes: AES-256.
const size = 32

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// A Key is a 256-bit key with an id. It is immutable; it doesn't print.
type Key struct {
	id       string
	material *[size]byte // a pointer: fmt prints unexported fields
}

// NewKey returns a new random key with a random id.
func NewKey() Key {
	k := Key{id: "k-" + strings.ToLower(rand.Text()[:8]), material: new([size]byte)}
	_, _ = rand.Read(k.material[:]) // never fails
	return k
}

// ID returns the key's id, which is no secret: every value that it seals has it.
func (k Key) ID() string { return k.id }

// Line returns the key as a line of a keyring, with its line break. It is the secret itself.
func (k Key) Line() []byte {
	return append(encoding.AppendEncode([]byte(k.id+" "), k.material[:]), '\n')
}

// String returns what is no secret of the key.
func (k Key) String() string { return "key " + k.id }

// GoString is [Key.String].
func (k Key) GoString() string { return k.String() }

func (k Key) equal(other Key) bool {
	return subtle.ConstantTimeCompare(k.material[:], other.material[:]) == 1
}

// Parse reads a keyring: one key in each line, an id ([A-Za-z0-9_-]{1,32}) and 32 bytes in base64, with a space between them.
// What follows a "#" is a comment; blank lines are nothing. The first key seals. An error names the line, and repeats nothing
// of it.
func Parse(data []byte) (*Keyring, error) {
	var keys []Key
	lines := map[string]int{}
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		key, err := parseKey(fields)
		if err == nil && lines[key.id] > 0 {
			err = fmt.Errorf("the same id as in line %d", lines[key.id])
		}
		for _, other := range keys {
			if err == nil && other.equal(key) {
				err = fmt.Errorf("the same key as in line %d, under another id", lines[other.id])
			}
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		lines[key.id] = n
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no key in it; onetoken keygen makes one")
	}
	return New(keys...)
}

func parseKey(fields []string) (Key, error) {
	if len(fields) != 2 {
		return Key{}, errors.New("an id and a key are expected, with a space between them")
	}
	if !idPattern.MatchString(fields[0]) {
		return Key{}, errors.New(`the id isn't 1 to 32 of the characters A-Z a-z 0-9 "_" "-"`)
	}
	text := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(fields[1], "=")) // openssl rand -base64 32
	material, err := encoding.DecodeString(text)
	if err != nil {
		return Key{}, errors.New("the key is no base64")
	}
	if len(material) != size {
		return Key{}, fmt.Errorf("the key is %d bytes long, not %d", len(material), size)
	}
	return Key{id: fields[0], material: (*[size]byte)(material)}, nil
}
