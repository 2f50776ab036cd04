package faultproxy

import (
	"strconv"
	"strings"
)

// A Step is what a request is for.
type Step string

// The steps. They are recognised by the command and by the names of its keys, which are the contract of what is in Redis,
// and by the number and the form of a script's arguments.
const (
	Acquire    Step = "acquire"    // acquire.lua
	Renew      Step = "renew"      // redsync's script that extends the lease
	Release    Step = "release"    // redsync's script that deletes the lock: also where it isn't known whether it was taken
	Read       Step = "read"       // read.lua
	Claim      Step = "claim"      // read.lua, which may take the lease: then its reply's twelfth element is the version
	Issue      Step = "issue"      // issue.lua
	Put        Step = "put"        // put.lua
	Fail       Step = "fail"       // fail.lua
	Invalidate Step = "invalidate" // invalidate.lua
	Keep       Step = "keep"       // keep.lua
	Adopt      Step = "adopt"      // adopt.lua
	Subscribe  Step = "subscribe"
	Event      Step = "event" // a message to a subscriber; there is no request
	Other      Step = "other"
)

// stepOf recognises a request.
func stepOf(args []string) Step {
	if len(args) == 0 {
		return Other
	}
	switch strings.ToUpper(args[0]) {
	case "SUBSCRIBE":
		return Subscribe
	case "EVAL", "EVALSHA":
		return scriptOf(args)
	}
	return Other
}

// scriptOf recognises a script.
func scriptOf(args []string) Step {
	if len(args) < 3 {
		return Other
	}
	n, err := strconv.Atoi(args[2])
	if err != nil || n < 1 || n > len(args)-3 {
		return Other
	}
	var kinds []string
	for _, key := range args[3 : 3+n] {
		kinds = append(kinds, key[strings.LastIndexByte(key, ':')+1:])
	}
	rest := args[3+n:]
	if len(rest) < 2 && kinds[0] != "lock" {
		rest = []string{"", ""}
	}
	switch strings.Join(kinds, " ") {
	case "token mark failure lock grant":
		if strings.Contains(rest[0], "|") { // the attempt's lock value
			if len(rest) == 2 { // and the lease's TTL
				return Claim
			}
			return Issue
		}
		return Read
	case "token mark failure grant":
		if _, err := strconv.ParseUint(rest[1], 10, 64); err != nil { // the channel, in place of a time
			return Adopt
		}
		return Put
	case "mark failure token grant":
		return Fail
	case "grant":
		return Keep
	case "token mark":
		return Invalidate
	case "lock":
		switch len(rest) {
		case 1:
			return Release
		case 2:
			return Renew
		case 3:
			return Acquire
		}
	}
	return Other
}
