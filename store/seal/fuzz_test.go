package seal_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/store/seal"
)

// Whatever a keyring holds, it gives keys that open what they seal, or one line that repeats none of it.
func FuzzParse(f *testing.F) {
	f.Add([]byte("k1 " + good + "\n"))
	f.Add([]byte("# two\nk1 " + good + "=\r\nk2 " + other + " # old\n"))
	f.Add([]byte(good + " k1"))
	f.Add([]byte("k1 " + good + "\nk1 " + other))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := seal.Parse(data)
		if err != nil {
			for word := range strings.FieldsSeq(string(data)) {
				if len(word) > 20 && strings.Contains(err.Error(), word) || strings.ContainsAny(err.Error(), "\r\n") {
					t.Errorf("%v repeats the file", err)
				}
			}
			if r != nil {
				t.Errorf("%v and %v", r, err)
			}
			return
		}
		seen := map[string]bool{}
		for _, id := range r.IDs() {
			if seen[id] {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
		}
		value := sealed(t, r, "text", "place")
		wantOpen(t, r, value, "place", "text")
		if got := seal.KeyID(value); got != r.SealingKey() {
			t.Errorf("the value names %q; %s seals", got, r.SealingKey())
		}
	})
}

// Nothing opens but what was sealed, as it was, in its place.
func FuzzDecrypt(f *testing.F) {
	a, b := seal.NewKey(), seal.NewKey()
	r := ring(f, a, b)
	const text, data = "the-token", "n\x00prod\x00access_token\x001"
	fresh := sealed(f, r, text, data)
	f.Add(fresh, []byte(data))
	f.Add(append(bytes.Clone(fresh), '\n'), []byte(data))
	f.Add(fresh, []byte("n\x00prod\x00access_token\x002"))
	f.Add([]byte("sealed1."+b.ID()+"."), []byte(data))
	f.Add([]byte("sealed2.x.y"), []byte(data))
	f.Add([]byte("a-token"), []byte{})
	f.Fuzz(func(t *testing.T, value, place []byte) {
		got, err := r.Decrypt(value, place)
		asItWas := bytes.Equal(value, fresh) && string(place) == data && string(got) == text
		if err == nil && !asItWas {
			t.Fatalf("%q opens to %q at %q", value, got, place)
		}
		var why *seal.Error
		if err != nil && (!errors.As(err, &why) || strings.ContainsFunc(err.Error(), func(c rune) bool { return c < ' ' || c > '~' })) {
			t.Errorf("%v (%T)", err, err)
		}
		plain, err := r.AcceptUnsealed().Decrypt(value, place)
		if err == nil && !bytes.Equal(plain, value) && !bytes.Equal(value, fresh) || err == nil && bytes.Equal(plain, value) && seal.IsSealed(value) {
			t.Errorf("accepting, %q opens to %q", value, plain)
		}
		// What is sealed opens again, and nowhere else.
		again := sealed(t, r, string(value), string(place))
		wantOpen(t, r, again, string(place), string(value))
		wantClosed(t, r, again, string(place)+"x", seal.ErrTampered)
	})
}
