// Package secret holds values that must not be printed by accident.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// A Secret is a string that prints, formats, logs and marshals as "[redacted]", also where it is nested in another
// value. The zero value is the empty secret. A Secret is immutable and safe for concurrent use.
type Secret struct {
	p *string // a pointer, so that %v and %+v of a struct around it print an address at worst
}

// New returns a Secret that holds s.
func New(s string) Secret { return Secret{p: &s} }

// Reveal returns the text itself. Call it only where the secret leaves on purpose.
func (s Secret) Reveal() string {
	if s.p == nil {
		return ""
	}
	return *s.p
}

// IsEmpty reports whether the secret is the empty string.
func (s Secret) IsEmpty() bool { return s.p == nil || *s.p == "" }

// Equal compares in a time that doesn't depend on where the two differ.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String implements [fmt.Stringer].
func (s Secret) String() string { return redacted }

// GoString implements [fmt.GoStringer].
func (s Secret) GoString() string { return redacted }

// Format implements [fmt.Formatter] for every verb, %x and %q among them.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements [slog.LogValuer].
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler].
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements [encoding/json.Marshaler].
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
