package faultproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// limit is the longest frame that is read; nothing of ours comes near it.
const limit = 16 << 20

var errTooLong = errors.New("faultproxy: a frame is too long")

// A value is one RESP2 or RESP3 value (https://redis.io/docs/latest/develop/reference/protocol-spec/), with its bytes as
// they came.
type value struct {
	raw      []byte
	kind     byte     // the type's first byte
	elements []string // of an aggregate, those that are scalars ("" for others); else the scalar alone
}

func (v value) failed() bool { return v.kind == '-' || v.kind == '!' }

// readValue reads one value. An attribute before it counts as its part.
func readValue(r *bufio.Reader) (value, error) {
	var v value
	for {
		head, err := readLine(r, &v)
		if err != nil {
			return v, err
		}
		v.kind = head[0]
		if v.kind != '|' {
			return v, readBody(r, &v, head, true)
		}
		if err := readBody(r, &v, head, false); err != nil {
			return v, err
		}
	}
}

// readLine reads a line, and appends it with its end to what v has of bytes.
func readLine(r *bufio.Reader, v *value) (string, error) {
	line, err := r.ReadSlice('\n')
	v.raw = append(v.raw, line...)
	switch {
	case errors.Is(err, io.EOF) && len(v.raw) > 0:
		return "", io.ErrUnexpectedEOF
	case err != nil:
		return "", err
	case len(line) < 3 || line[len(line)-2] != '\r':
		return "", fmt.Errorf("faultproxy: no RESP: %.40q", line)
	}
	return string(line[:len(line)-2]), nil
}

// readBody reads what belongs to a head. Where keep, its scalars are elements of v.
func readBody(r *bufio.Reader, v *value, head string, keep bool) error {
	note := func(text string) {
		if keep {
			v.elements = append(v.elements, text)
		}
	}
	rest := head[1:]
	switch head[0] {
	case '+', '-', ':', ',', '#', '(':
		note(rest)
		return nil
	case '_':
		note("")
		return nil
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n > limit {
		return fmt.Errorf("faultproxy: no RESP: %.40q", head)
	}
	switch head[0] {
	case '$', '=', '!':
		if n < 0 {
			note("")
			return nil
		}
		text, err := readBytes(r, v, n)
		note(text)
		return err
	case '*', '~', '>':
		return readMembers(r, v, n, keep)
	case '%', '|':
		return readMembers(r, v, 2*n, keep)
	}
	return fmt.Errorf("faultproxy: no RESP: %.40q", head)
}

func readBytes(r *bufio.Reader, v *value, n int) (string, error) {
	if len(v.raw)+n > limit {
		return "", errTooLong
	}
	from := len(v.raw)
	v.raw = append(v.raw, make([]byte, n+2)...)
	if _, err := io.ReadFull(r, v.raw[from:]); err != nil {
		return "", fmt.Errorf("faultproxy: a value ends early: %w", err)
	}
	return string(v.raw[from : from+n]), nil
}

// readMembers reads the n members of an aggregate. Aggregates among them are one element, "".
func readMembers(r *bufio.Reader, v *value, n int, keep bool) error {
	for range n {
		head, err := readLine(r, v)
		if err != nil {
			return err
		}
		nested := head[0] != '_' && strings.IndexByte("*~>%|", head[0]) >= 0
		if err := readBody(r, v, head, keep && !nested); err != nil {
			return err
		}
		if nested && keep {
			v.elements = append(v.elements, "")
		}
		if len(v.raw) > limit {
			return errTooLong
		}
	}
	return nil
}
