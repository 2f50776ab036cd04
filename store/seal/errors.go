package seal

import "errors"

// Why a value doesn't open, for [errors.Is].
var (
	// ErrUnknownKey: the value names a key that isn't in the keyring.
	ErrUnknownKey = errors.New("isn't in the keyring")
	// ErrUnsealed: the value isn't sealed at all.
	ErrUnsealed = errors.New("it isn't sealed")
	// ErrTampered: the value was changed, or moved from where it was sealed for; or the key of that id is another here.
	ErrTampered = errors.New("it was changed or moved, or another key has that id here")
	// ErrFormat: the value was sealed by a later version, in a format that isn't known here.
	ErrFormat = errors.New("it is sealed in a format that this version doesn't know")
	// ErrNoKeys: the value is sealed, and no keys are configured at all.
	ErrNoKeys = errors.New("no keys are configured here")
)

// An Error says why a value doesn't open. It holds no part of the value but the id of its key.
type Error struct {
	KeyID string // "" where the value names none, or is malformed
	Err   error  // one of the above
}

func (e *Error) Error() string {
	switch {
	case e.KeyID == "":
		return e.Err.Error()
	case errors.Is(e.Err, ErrUnknownKey):
		return "it is sealed with key " + e.KeyID + ", which " + e.Err.Error()
	}
	return "it is sealed with key " + e.KeyID + ": " + e.Err.Error()
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// None is the codec of those without keys: it leaves everything as it is, and doesn't take a sealed value for a token. Its zero
// value is ready for use.
type None struct{}

// Encrypt returns plaintext, unless that would be taken for sealed.
func (None) Encrypt(plaintext, _ []byte) ([]byte, error) {
	if IsSealed(plaintext) {
		return nil, errors.New("it begins as what is sealed does")
	}
	return plaintext, nil
}

// Decrypt returns ciphertext, unless it is sealed: then the error is an *[Error] of [ErrNoKeys].
func (None) Decrypt(ciphertext, _ []byte) ([]byte, error) {
	if IsSealed(ciphertext) {
		return nil, &Error{KeyID: KeyID(ciphertext), Err: ErrNoKeys}
	}
	return ciphertext, nil
}
