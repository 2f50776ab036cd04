package agent

import (
	"hash/maphash"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"
)

// How many failed authentications an address and a client have at once, and how soon one more.
const (
	failuresAtOnce = 10
	failureEvery   = time.Second
	throttleSlots  = 4096
)

// A throttle limits failed authentications by who makes them. Its memory is what it is from the start: some share a slot,
// which ones an outsider can't know.
type throttle struct {
	seed  maphash.Seed
	base  time.Time
	slots [throttleSlots]atomic.Int64 // the instant at which all failures are forgotten
}

func newThrottle() *throttle { return &throttle{seed: maphash.MakeSeed(), base: time.Now()} }

// wait returns how long whoever this is has to wait before the next attempt, 0 or less if not at all, and the slot for
// [throttle.note].
func (t *throttle) wait(address, client string) (time.Duration, *atomic.Int64) {
	var h maphash.Hash
	h.SetSeed(t.seed)
	_, _ = h.WriteString(address)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(client)
	slot := &t.slots[h.Sum64()%throttleSlots]
	debt := time.Duration(slot.Load()) - time.Since(t.base)
	return debt - (failuresAtOnce-1)*failureEvery, slot
}

// note counts a failure.
func (t *throttle) note(slot *atomic.Int64) {
	for {
		old := slot.Load()
		if slot.CompareAndSwap(old, max(old, int64(time.Since(t.base)))+int64(failureEvery)) {
			return
		}
	}
}

func tooMany(wait time.Duration) *problem {
	return &problem{
		Status: http.StatusTooManyRequests, Code: "too_many_failures", RetryAfter: wait,
		Detail: "too many failed authentications",
	}
}

// address is who a request comes from, as far as one can tell: a network of IPv6, "" over a unix socket.
func address(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return ""
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Unmap().Is6() {
		if network, err := ip.WithZone("").Prefix(64); err == nil {
			return network.String()
		}
	}
	return host
}
