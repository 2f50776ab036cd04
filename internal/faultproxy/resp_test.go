package faultproxy

import (
	"bufio"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
)

func TestAValueIsReadWithItsBytes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, in string
		kind     byte
		elements []string
	}{
		{"simple string", "+OK\r\n", '+', []string{"OK"}},
		{"error", "-NOSCRIPT No matching script\r\n", '-', []string{"NOSCRIPT No matching script"}},
		{"integer", ":-2\r\n", ':', []string{"-2"}},
		{"bulk string with a line break", "$4\r\na\r\nb\r\n", '$', []string{"a\r\nb"}},
		{"empty bulk string", "$0\r\n\r\n", '$', []string{""}},
		{"null of RESP2", "$-1\r\n", '$', []string{""}},
		{"null of RESP3", "_\r\n", '_', []string{""}},
		{"null array", "*-1\r\n", '*', nil},
		{"request", "*2\r\n$4\r\nPING\r\n$1\r\nx\r\n", '*', []string{"PING", "x"}},
		{"array with a list and a null", "*4\r\n$1\r\na\r\n*2\r\n:1\r\n:2\r\n$-1\r\n:3\r\n", '*', []string{"a", "", "", "3"}},
		{"list in a list", "*2\r\n*1\r\n*1\r\n:1\r\n:2\r\n", '*', []string{"", "2"}},
		{"push", ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n", '>', []string{"message", "c", "m"}},
		{"map", "%1\r\n+a\r\n:1\r\n", '%', []string{"a", "1"}},
		{"double, boolean, big number", "~3\r\n,1.5\r\n#t\r\n(99\r\n", '~', []string{"1.5", "t", "99"}},
		{"attribute before a value", "|1\r\n+k\r\n+v\r\n:7\r\n", ':', []string{"7"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := bufio.NewReader(strings.NewReader(tt.in + "+next\r\n"))
			v, err := readValue(r)
			if err != nil {
				t.Fatal(err)
			}
			if string(v.raw) != tt.in {
				t.Errorf("bytes %q, want %q", v.raw, tt.in)
			}
			if v.kind != tt.kind || !reflect.DeepEqual(v.elements, tt.elements) {
				t.Errorf("kind %q, elements %q; want %q, %q", v.kind, v.elements, tt.kind, tt.elements)
			}
			if next, err := readValue(r); err != nil || string(next.raw) != "+next\r\n" {
				t.Errorf("then %q, %v", next.raw, err)
			}
			if _, err := readValue(r); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v, want io.EOF", err)
			}
		})
	}
}

func TestWhatIsNoValueIsAnError(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"+OK", "+OK\n", "PING\r\n", "\r\n", "$x\r\n", "$5\r\nab", "*2\r\n:1\r\n", "$99999999999\r\n", "*1\r\n\r\n",
	} {
		if v, err := readValue(bufio.NewReader(strings.NewReader(in))); err == nil {
			t.Errorf("%q is read as %q", in, v.elements)
		} else if errors.Is(err, io.EOF) && err.Error() == io.EOF.Error() {
			t.Errorf("%q: a value that ends early looks like the end of the stream", in)
		}
	}
}

func FuzzReadValue(f *testing.F) {
	for _, seed := range []string{"*2\r\n$4\r\nPING\r\n$1\r\nx\r\n", "%1\r\n+a\r\n*1\r\n:1\r\n", "|1\r\n+k\r\n+v\r\n_\r\n", "$-1\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		v, err := readValue(bufio.NewReader(strings.NewReader(in)))
		if err == nil && !strings.HasPrefix(in, string(v.raw)) {
			t.Errorf("%q is passed on as %q", in, v.raw)
		}
	})
}
