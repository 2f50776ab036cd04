package seal_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/onetoken/onetoken/store/seal"
)

func ring(t testing.TB, keys ...seal.Key) *seal.Keyring {
	t.Helper()
	r, err := seal.New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sealed(t testing.TB, r *seal.Keyring, text, data string) []byte {
	t.Helper()
	value, err := r.Encrypt([]byte(text), []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// wantOpen checks that value opens with r, to text.
func wantOpen(t testing.TB, r *seal.Keyring, value []byte, data, text string) {
	t.Helper()
	if got, err := r.Decrypt(value, []byte(data)); err != nil || string(got) != text {
		t.Errorf("got %q, %v; want %q", got, err, text)
	}
}

// wantClosed checks that value doesn't open with r, why, and that the error repeats nothing.
func wantClosed(t testing.TB, r *seal.Keyring, value []byte, data string, why error) {
	t.Helper()
	got, err := r.Decrypt(value, []byte(data))
	if got != nil || !errors.Is(err, why) {
		t.Errorf("%q opens to %q, %v; want %v", value, got, err, why)
	}
	for _, other := range []error{seal.ErrUnknownKey, seal.ErrUnsealed, seal.ErrTampered, seal.ErrFormat, seal.ErrNoKeys} {
		if !errors.Is(why, other) && errors.Is(err, other) {
			t.Errorf("%v is %v, too", err, other)
		}
	}
	if rest := value[bytes.LastIndexByte(value, '.')+1:]; err != nil && len(rest) > 0 && strings.Contains(err.Error(), string(rest)) {
		t.Errorf("%v repeats the value", err)
	}
}

func TestAValueNamesItsFormatAndKeyAndOpensInItsPlace(t *testing.T) {
	t.Parallel()
	key := seal.NewKey()
	r := ring(t, key)
	value := sealed(t, r, "the-token", "place")
	if want := `^sealed1\.` + key.ID() + `\.[A-Za-z0-9_-]+$`; !regexp.MustCompile(want).Match(value) {
		t.Errorf("got %s, want %s", value, want)
	}
	if bytes.Contains(value, []byte("the-token")) || bytes.Contains(value, []byte(base64.RawURLEncoding.EncodeToString([]byte("the-token")))) {
		t.Errorf("the token is in %s", value)
	}
	wantOpen(t, r, value, "place", "the-token")
	wantClosed(t, r, value, "another place", seal.ErrTampered)
	wantClosed(t, r, value, "", seal.ErrTampered)
	if again := sealed(t, r, "the-token", "place"); bytes.Equal(again, value) {
		t.Error("sealed twice, it is the same: the nonce isn't random")
	}
	wantOpen(t, r, sealed(t, r, "", ""), "", "")
}

func TestTheFirstKeySealsAndAllOpen(t *testing.T) {
	t.Parallel()
	a, b := seal.NewKey(), seal.NewKey()
	old, both, newer := ring(t, a), ring(t, b, a), ring(t, b)
	byA, byB := sealed(t, old, "1", "x"), sealed(t, both, "2", "x")
	wantOpen(t, both, byA, "x", "1")
	wantOpen(t, newer, byB, "x", "2")
	wantClosed(t, newer, byA, "x", seal.ErrUnknownKey)
	if _, err := newer.Decrypt(byA, []byte("x")); !strings.Contains(err.Error(), a.ID()) {
		t.Errorf("%v doesn't name the key %s", err, a.ID())
	}
	if got, want := both.IDs(), []string{b.ID(), a.ID()}; !slices.Equal(got, want) || both.SealingKey() != b.ID() {
		t.Errorf("got %q, %s; want %q", got, both.SealingKey(), want)
	}
}

// Whatever bit is changed, and whichever key it is said to be of, it doesn't open.
func TestAChangedValueDoesNotOpen(t *testing.T) {
	t.Parallel()
	a, b := seal.NewKey(), seal.NewKey()
	r := ring(t, a, b)
	value := sealed(t, r, "the-token", "x")
	for i := range value {
		for _, c := range []byte("A0-_.\n=") {
			changed := bytes.Clone(value)
			if changed[i] == c {
				continue
			}
			changed[i] = c
			if got, err := r.Decrypt(changed, []byte("x")); err == nil {
				t.Errorf("%s opens to %q", changed, got)
			}
		}
	}
	wantClosed(t, r, bytes.Replace(value, []byte(a.ID()), []byte(b.ID()), 1), "x", seal.ErrTampered)
	for _, end := range []string{"\n", "=", "A", ".", " "} {
		wantClosed(t, r, append(bytes.Clone(value), end...), "x", seal.ErrTampered)
	}
	for n := range value {
		if got, err := r.Decrypt(value[:n], []byte("x")); err == nil {
			t.Errorf("%s opens to %q", value[:n], got)
		}
	}
	wantClosed(t, r, bytes.Replace(value, []byte("sealed1"), []byte("sealed2"), 1), "x", seal.ErrFormat)
}

// A value of a format or key that isn't known must not pass for one that isn't sealed.
func TestWhatIsNotSealedOpensOnlyWhereThatIsAccepted(t *testing.T) {
	t.Parallel()
	a := seal.NewKey()
	r := ring(t, a)
	wantClosed(t, r, []byte("a-token"), "x", seal.ErrUnsealed)
	accepting := r.AcceptUnsealed()
	wantOpen(t, accepting, []byte("a-token"), "x", "a-token")
	wantOpen(t, accepting, []byte("sealed.a-token"), "x", "sealed.a-token")
	wantOpen(t, accepting, sealed(t, r, "1", "x"), "x", "1")
	wantClosed(t, accepting, sealed(t, r, "1", "x"), "y", seal.ErrTampered)
	wantClosed(t, accepting, sealed(t, ring(t, seal.NewKey()), "1", "x"), "x", seal.ErrUnknownKey)
	wantClosed(t, accepting, []byte("sealed9.whatever"), "x", seal.ErrFormat)
	wantClosed(t, accepting, []byte("sealed1.a-token"), "x", seal.ErrTampered)
	wantClosed(t, r, []byte("a-token"), "x", seal.ErrUnsealed) // unchanged
}

func TestNoneTakesNoSealedValueForAToken(t *testing.T) {
	t.Parallel()
	var none seal.None
	if got, err := none.Decrypt([]byte("a-token"), nil); err != nil || string(got) != "a-token" {
		t.Errorf("got %q, %v", got, err)
	}
	a := seal.NewKey()
	got, err := none.Decrypt(sealed(t, ring(t, a), "1", ""), nil)
	if got != nil || !errors.Is(err, seal.ErrNoKeys) || !strings.Contains(err.Error(), a.ID()) {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := none.Encrypt([]byte("sealed1.a-token"), nil); err == nil {
		t.Errorf("got %q, which nobody would read", got)
	}
}

const (
	good  = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	other = "-_ECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"k1 " + good, "k1\t" + good + "=\r\n", "\n# old\n\n  k1   " + good + "  # made in May\n",
		"k1 " + good + "\nk2 " + strings.NewReplacer("-", "+", "_", "/").Replace(other) + "=", // as openssl writes it
	} {
		r, err := seal.Parse([]byte(text))
		if err != nil || r.SealingKey() != "k1" {
			t.Errorf("%q: %v, %v", text, r, err)
		}
	}
	a := seal.NewKey()
	r, err := seal.Parse(append(a.Line(), seal.NewKey().Line()...))
	if err != nil {
		t.Fatal(err)
	}
	wantOpen(t, r, sealed(t, ring(t, a), "1", "x"), "x", "1")
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                       "no key in it",
		"# nothing\n\n":                          "no key in it",
		good:                                     "line 1: an id and a key",
		"k1 " + good + " " + other:               "line 1: an id and a key",
		"\nk1 " + good[:40]:                      "line 2: the key is 30 bytes long, not 32",
		"k1 " + good + "AAAA":                    "line 1: the key is 35 bytes long",
		"k1 " + good[:42] + "!":                  "line 1: the key is no base64",
		"k1 " + good[:42] + "9":                  "line 1: the key is no base64", // bits that mean nothing
		good + " k1":                             "line 1: the id isn't",
		"a.b " + good:                            "line 1: the id isn't",
		"k1 " + good + "\nk1 " + other:           "line 2: the same id as in line 1",
		"k1 " + good + "\n#\nk2 " + good:         "line 3: the same key as in line 1",
		"k1 " + good + "\nk2 " + good + "=\n":    "line 2: the same key",
		"\xef\xbb\xbfk1 " + good:                 "line 1: the id isn't",
		"k1 \x00" + good:                         "line 1: the key is no base64",
		strings.Repeat("k", 33) + " " + good:     "line 1: the id isn't",
		"k1 " + good + "\n" + other + "\n":       "line 2: an id and a key",
		"k1 " + good + "\nk1=" + other + " x\n":  "line 2: the id isn't",
		"k1 " + strings.Repeat("0123456789", 10): "line 1: the key is",
	} {
		r, err := seal.Parse([]byte(text))
		if r != nil || err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: got %v, %v; want %s", text, r, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), good[:20]) || strings.Contains(err.Error(), other[:20]) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %v repeats what is in it", text, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	a := seal.NewKey()
	for name, keys := range map[string][]seal.Key{"none": nil, "a zero key": {{}}, "one twice": {a, a}, "a zero key last": {a, {}}} {
		if r, err := seal.New(keys...); r != nil || err == nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

func TestNoKeyIsPrinted(t *testing.T) {
	t.Parallel()
	r, err := seal.Parse([]byte("k1 " + good))
	if err != nil {
		t.Fatal(err)
	}
	key := seal.NewKey()
	line := string(key.Line())
	material, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(line[strings.Index(line, " "):]))
	if err != nil {
		t.Fatal(err)
	}
	type nested struct {
		K seal.Key
		P *seal.Key
		R *seal.Keyring
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{key, &key, r, nested{key, &key, r}, []seal.Key{key}} {
			text := fmt.Sprintf(format, v)
			for _, bytes := range []string{
				strings.TrimSpace(line)[len(key.ID())+1:], good, string(material), fmt.Sprintf("%x", material), strings.Trim(fmt.Sprintf("%d", material[:8]), "[]"),
			} {
				if strings.Contains(text, bytes) {
					t.Errorf("%s of %T: %s", format, v, text)
				}
			}
		}
	}
}
