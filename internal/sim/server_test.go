package sim

import (
	"crypto/sha1" //nolint:gosec // the name of a script, as Redis has it
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// A server is a model of one Redis: strings and hashes that end at an instant of its own clock, the scripts' commands, and
// EVAL by a real Lua. It is for one goroutine, which makes every command atomic. What a crash, a failover to a stale
// replica or a stepped clock do to a Redis is done to it by changing its fields.
type server struct {
	clock    func() time.Time
	keys     map[string]*entry
	scripts  map[string]string // by SHA-1: those that this process of Redis has seen
	publish  func(channel, payload string)
	readOnly bool
	state    *lua.LState
}

// An entry is a key's value: a string or, where hash isn't nil, a hash.
type entry struct {
	text    string
	hash    map[string]string
	expires int64 // by the server's clock, in ms since the epoch; 0: never
}

// A serverError is an error reply.
type serverError string

func (e serverError) Error() string { return string(e) }

// RedisError marks it as an error reply for the client.
func (serverError) RedisError() {}

// A status is a reply like OK.
type status string

func newServer(clock func() time.Time, publish func(channel, payload string)) *server {
	s := &server{clock: clock, keys: map[string]*entry{}, scripts: map[string]string{}, publish: publish}
	s.state = lua.NewState()
	api := s.state.NewTable()
	s.state.SetField(api, "call", s.state.NewFunction(func(l *lua.LState) int { return s.fromLua(l, true) }))
	s.state.SetField(api, "pcall", s.state.NewFunction(func(l *lua.LState) int { return s.fromLua(l, false) }))
	s.state.SetGlobal("redis", api)
	return s
}

func (s *server) close() { s.state.Close() }

// ms is the server's clock in milliseconds since the epoch.
func (s *server) ms() int64 { return s.clock().UnixMilli() }

// at returns the entry of a key that hasn't ended.
func (s *server) at(key string) *entry {
	e := s.keys[key]
	if e != nil && e.expires != 0 && s.ms() > e.expires {
		delete(s.keys, key)
		return nil
	}
	return e
}

// copyKeys is what a snapshot on disk, or a replica that lags, would have.
func (s *server) copyKeys() map[string]*entry {
	c := make(map[string]*entry, len(s.keys))
	for k, e := range s.keys {
		d := *e
		d.hash = maps.Clone(e.hash)
		c[k] = &d
	}
	return c
}

// restart is a new process of Redis that has loaded keys.
func (s *server) restart(keys map[string]*entry) {
	s.keys, s.scripts = keys, map[string]string{}
}

var errWrongType = serverError("WRONGTYPE Operation against a key holding the wrong kind of value")

var writes = map[string]bool{
	"set": true, "del": true, "hset": true, "persist": true, "pexpire": true, "pexpireat": true,
}

// do executes one command. Its reply is a status, a string, an int64, nil, a []any of these, or an error.
func (s *server) do(args ...string) any {
	name := strings.ToLower(args[0])
	if s.readOnly && writes[name] {
		return serverError("READONLY You can't write against a read only replica.")
	}
	switch name {
	case "eval", "evalsha":
		return s.eval(name, args[1:])
	case "time":
		us := s.clock().UnixMicro()
		return []any{strconv.FormatInt(us/1e6, 10), strconv.FormatInt(us%1e6, 10)}
	case "publish":
		s.publish(args[1], args[2])
		return int64(0)
	case "ping":
		return status("PONG")
	case "set":
		return s.set(args[1:])
	}
	if len(args) < 2 {
		return serverError("ERR wrong number of arguments for '" + name + "' command")
	}
	return s.onKey(name, args[1], args[2:])
}

func (s *server) onKey(name, key string, args []string) any {
	e := s.at(key)
	switch name {
	case "type":
		switch {
		case e == nil:
			return status("none")
		case e.hash != nil:
			return status("hash")
		}
		return status("string")
	case "get":
		if e == nil {
			return nil
		}
		if e.hash != nil {
			return errWrongType
		}
		return e.text
	case "del":
		return s.del(append([]string{key}, args...))
	case "pttl":
		switch {
		case e == nil:
			return int64(-2)
		case e.expires == 0:
			return int64(-1)
		}
		return e.expires - s.ms()
	case "persist":
		if e == nil || e.expires == 0 {
			return int64(0)
		}
		e.expires = 0
		return int64(1)
	case "pexpire", "pexpireat":
		return s.expire(name, key, e, args)
	case "hset", "hget", "hmget":
		return s.onHash(name, key, e, args)
	}
	return serverError("ERR unknown command '" + name + "'")
}

func (s *server) del(keys []string) any {
	n := int64(0)
	for _, k := range keys {
		if s.at(k) != nil {
			delete(s.keys, k)
			n++
		}
	}
	return n
}

func (s *server) expire(name, key string, e *entry, args []string) any {
	n, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return serverError("ERR value is not an integer or out of range")
	}
	if e == nil {
		return int64(0)
	}
	if name == "pexpire" {
		n += s.ms()
	}
	if n <= s.ms() {
		delete(s.keys, key)
	} else {
		e.expires = n
	}
	return int64(1)
}

func (s *server) onHash(name, key string, e *entry, args []string) any {
	if e != nil && e.hash == nil {
		return errWrongType
	}
	switch name {
	case "hset":
		if e == nil {
			e = &entry{hash: map[string]string{}}
			s.keys[key] = e
		}
		added := int64(0)
		for i := 0; i+1 < len(args); i += 2 {
			if _, ok := e.hash[args[i]]; !ok {
				added++
			}
			e.hash[args[i]] = args[i+1]
		}
		return added
	case "hget":
		return e.field(args[0])
	}
	values := make([]any, len(args))
	for i, f := range args {
		values[i] = e.field(f)
	}
	return values
}

// field returns a hash's field, nil where there is none.
func (e *entry) field(name string) any {
	if e != nil {
		if v, ok := e.hash[name]; ok {
			return v
		}
	}
	return nil
}

// set is SET key value [PX ms | EX s] [NX].
func (s *server) set(args []string) any {
	e := &entry{text: args[1]}
	for i := 2; i < len(args); i++ {
		switch strings.ToLower(args[i]) {
		case "nx":
			if s.at(args[0]) != nil {
				return nil
			}
		case "px", "ex":
			n, err := strconv.ParseInt(args[i+1], 10, 64)
			if err != nil || n <= 0 {
				return serverError("ERR invalid expire time in 'set' command")
			}
			if strings.EqualFold(args[i], "ex") {
				n *= 1000
			}
			e.expires = s.ms() + n
			i++
		default:
			return serverError("ERR syntax error")
		}
	}
	s.keys[args[0]] = e
	return status("OK")
}

// compiled are the scripts that any server has run, by their text.
var compiled = struct {
	sync.Mutex
	protos map[string]*lua.FunctionProto
}{protos: map[string]*lua.FunctionProto{}}

func shaOf(script string) string {
	sum := sha1.Sum([]byte(script)) //nolint:gosec // as Redis has it
	return hex.EncodeToString(sum[:])
}

func (s *server) eval(name string, args []string) any {
	script := args[0]
	if name == "evalsha" {
		var ok bool
		if script, ok = s.scripts[args[0]]; !ok {
			return serverError("NOSCRIPT No matching script. Please use EVAL.")
		}
	} else {
		s.scripts[shaOf(script)] = script
	}
	n, err := strconv.Atoi(args[1])
	if err != nil || n < 0 || n > len(args)-2 {
		return serverError("ERR Number of keys can't be greater than number of args")
	}
	fn, err := s.compile(script)
	if err != nil {
		return serverError("ERR Error compiling script: " + err.Error())
	}
	l := s.state
	l.SetGlobal("KEYS", texts(l, args[2:2+n]))
	l.SetGlobal("ARGV", texts(l, args[2+n:]))
	l.Push(fn)
	if err := l.PCall(0, 1, nil); err != nil {
		if raised, ok := errors.AsType[*lua.ApiError](err); ok {
			text := lua.LVAsString(raised.Object)
			if strings.HasPrefix(text, "<string>:") { // Lua's own
				text = "ERR " + text
			}
			return serverError(text)
		}
		return serverError("ERR " + err.Error())
	}
	v := l.Get(-1)
	l.Pop(1)
	return toReply(v)
}

func (s *server) compile(script string) (*lua.LFunction, error) {
	compiled.Lock()
	defer compiled.Unlock()
	proto := compiled.protos[script]
	if proto == nil {
		fn, err := s.state.LoadString(script)
		if err != nil {
			return nil, err
		}
		proto = fn.Proto
		compiled.protos[script] = proto
	}
	return s.state.NewFunctionFromProto(proto), nil
}

func texts(l *lua.LState, list []string) *lua.LTable {
	t := l.CreateTable(len(list), 0)
	for _, s := range list {
		t.Append(lua.LString(s))
	}
	return t
}

// fromLua is redis.call or, unless an error is to be raised, redis.pcall.
func (s *server) fromLua(l *lua.LState, raise bool) int {
	args := make([]string, l.GetTop())
	for i := range args {
		switch v := l.Get(i + 1).(type) {
		case lua.LString:
			args[i] = string(v)
		case lua.LNumber:
			args[i] = strconv.FormatFloat(float64(v), 'g', 17, 64)
		default:
			l.RaiseError("ERR Lua redis lib command arguments must be strings or integers")
		}
	}
	reply := s.do(args...)
	if err, ok := reply.(serverError); ok && raise {
		l.Error(lua.LString(err), 0)
	}
	l.Push(toLua(l, reply))
	return 1
}

func toLua(l *lua.LState, reply any) lua.LValue {
	switch v := reply.(type) {
	case nil:
		return lua.LFalse
	case string:
		return lua.LString(v)
	case int64:
		return lua.LNumber(v)
	case status:
		t := l.NewTable()
		t.RawSetString("ok", lua.LString(v))
		return t
	case serverError:
		t := l.NewTable()
		t.RawSetString("err", lua.LString(v))
		return t
	case []any:
		t := l.CreateTable(len(v), 0)
		for i, x := range v {
			t.RawSetInt(i+1, toLua(l, x))
		}
		return t
	}
	panic(fmt.Sprintf("no reply: %T", reply))
}

func toReply(v lua.LValue) any {
	switch v := v.(type) {
	case lua.LString:
		return string(v)
	case lua.LNumber:
		return int64(v)
	case lua.LBool:
		if v {
			return int64(1)
		}
		return nil
	case *lua.LTable:
		if ok := v.RawGetString("ok"); ok != lua.LNil {
			return status(lua.LVAsString(ok))
		}
		if err := v.RawGetString("err"); err != lua.LNil {
			return serverError(lua.LVAsString(err))
		}
		list := []any{}
		for i := 1; ; i++ {
			x := v.RawGetInt(i)
			if x == lua.LNil {
				return list
			}
			list = append(list, toReply(x))
		}
	}
	return nil
}
