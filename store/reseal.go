package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/onetoken/onetoken/store/seal"
)

// A KeyCodec is a Codec whose sealed values say which key they are sealed with.
type KeyCodec interface {
	Codec
	SealingKey() string         // the id of the key that seals now
	KeyID(sealed []byte) string // the id of a value's key; "" where it isn't sealed
}

var (
	_ KeyCodec = (*seal.Keyring)(nil)
	_ KeyCodec = (*seal.File)(nil)
)

// A Seal says with which key a secret field in Redis is sealed.
type Seal struct {
	Field string // "access_token" or "refresh_token"
	Was   string // the id of its key before; "" where it wasn't sealed
	Key   string // the id of its key now
	Err   error  // why it doesn't open with the keys here, without any of it; Was and Key are the same then
}

// ErrNoKeyCodec: there are no keys, or their values don't name them.
var ErrNoKeyCodec = errors.New("store: sealing anew takes a codec whose values name their keys")

// Seals returns how the secret fields of env are sealed: of the token and of the grant, whichever are there. Nothing is written:
// Was and Key are the same. Errors: [ErrNoKeyCodec], a *[StatusError], one that wraps [ErrName].
func (s *Store) Seals(ctx context.Context, env string) ([]Seal, error) {
	return s.eachSeal(ctx, env, false)
}

// Reseal seals the secret fields of env anew with the first key, where they are sealed with another or, for a codec that
// accepts that, aren't sealed. It says what is there now, as Seals does. Versions, TTLs and all other fields stay, and nobody
// is told: what is in use goes on being used. What is replaced meanwhile is looked at again. It may be run again, and by
// several at once. Errors: as of Seals; what was done before one is done.
func (s *Store) Reseal(ctx context.Context, env string) ([]Seal, error) {
	return s.eachSeal(ctx, env, true)
}

func (s *Store) eachSeal(ctx context.Context, env string, anew bool) ([]Seal, error) {
	if err := CheckName(env); err != nil {
		return nil, fmt.Errorf("store: environment: %w", err)
	}
	codec, ok := s.codec.(KeyCodec)
	if !ok {
		return nil, ErrNoKeyCodec
	}
	var seals []Seal
	k := s.Keys(env)
	for _, place := range []struct{ key, field string }{{k.Token, fieldAccessToken}, {k.Grant, fieldRefreshToken}} {
		found, err := s.oneSeal(ctx, codec, env, place.key, place.field, anew)
		if err != nil {
			return seals, err
		}
		if found != nil {
			seals = append(seals, *found)
		}
	}
	return seals, nil
}

// resealTries is how often a field is looked at that changes again and again, which takes a new token each time.
const resealTries = 5

// oneSeal looks at one field and, where that is asked for, seals it anew. It returns nil where there is none.
func (s *Store) oneSeal(ctx context.Context, codec KeyCodec, env, key, field string, anew bool) (*Seal, error) {
	for range resealTries {
		value, version, err := s.sealedField(ctx, key, field)
		if err != nil || value == "" {
			return nil, err
		}
		id := codec.KeyID([]byte(value))
		found := &Seal{Field: field, Was: id, Key: id}
		var opened []byte
		opened, found.Err = s.open(env, field, version, value)
		if found.Err != nil || !anew || id == codec.SealingKey() {
			return found, nil //nolint:nilerr // found has it: the others are looked at all the same
		}
		sealed, err := codec.Encrypt(opened, s.associatedData(env, field, version))
		if err != nil {
			return nil, &StatusError{Op: "seal", Key: key, Err: err}
		}
		reply, err := s.run(ctx, env, resealScript, "seal anew", 1, []string{key}, field, value, version, string(sealed))
		if err != nil {
			return nil, err
		}
		if text(reply, 0) == "resealed" {
			found.Key = codec.KeyID(sealed)
			return found, nil
		}
	}
	return nil, &StatusError{Op: "seal anew", Key: key, Err: errors.New("it changes all the time")}
}

// sealedField reads a secret as it stands in Redis, and the version that it is bound to; "" where there is none.
func (s *Store) sealedField(ctx context.Context, key, field string) (value, version string, err error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(caller, s.timeout)
	defer cancel()
	values, err := s.rdb.HMGet(ctx, key, field, fieldVersion).Result()
	if redis.HasErrorPrefix(err, "WRONGTYPE") {
		return "", "", nil // no secret of ours
	}
	if err != nil {
		s.unreachable(caller, err)
		return "", "", &StatusError{Op: "read", Key: key, Err: err}
	}
	return text(values, 0), text(values, 1), nil
}
