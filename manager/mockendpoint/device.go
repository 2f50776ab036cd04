package mockendpoint

import (
	"crypto/rand"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Defaults of [Options].
const (
	defaultDeviceInterval = 5 * time.Second // RFC 8628 §3.2
	defaultDeviceLife     = 10 * time.Minute
)

// slower is what slow_down adds to the interval (RFC 8628 §3.5).
const slower = 5 * time.Second

// A device waits for a person's approval.
type device struct {
	client           string
	expires          time.Time
	interval         time.Duration
	polled           time.Time // last
	polls            int
	approved, denied bool
	used             bool
}

// authorizeDevice is RFC 8628 §3.1.
func (e *Endpoint) authorizeDevice(c *call, r *http.Request) Reply {
	e.mu.Lock()
	defer e.mu.Unlock()
	client, refusal, refused := e.admitLocked(c, r)
	switch {
	case refused:
		return refusal
	case !slices.Contains(e.options.Grants, DeviceCode):
		return Reply{Error: "unauthorized_client", ErrorDescription: "device codes aren't accepted here"}
	}
	o := e.options
	d := &device{client: client, expires: time.Now().Add(o.DeviceLife), interval: o.DeviceInterval}
	code, userCode := "mock-device-"+rand.Text(), newUserCode()
	e.devices.add(code, d)
	e.userCodes.add(userCode, d)
	page := origin(r) + e.base + DevicePath
	shown := userCode[:4] + "-" + userCode[4:]
	return Reply{object: map[string]any{
		"device_code":               code,
		"user_code":                 shown,
		"verification_uri":          page,
		"verification_uri_complete": page + "?user_code=" + shown,
		"expires_in":                int64(o.DeviceLife.Seconds()),
		"interval":                  int64(math.Ceil(o.DeviceInterval.Seconds())),
	}}
}

// newUserCode returns 8 letters of RFC 8628 §6.1's alphabet, which has no vowels.
func newUserCode() string {
	const letters = "BCDFGHJKLMNPQRSTVWXZ"
	random := make([]byte, 8)
	_, _ = rand.Read(random) // never fails
	for i, b := range random {
		random[i] = letters[int(b)%len(letters)]
	}
	return string(random)
}

// visitDevice is where a person approves a device, by opening the page with its user code.
func (e *Endpoint) visitDevice(_ *call, r *http.Request) Reply {
	if r.Method != http.MethodGet {
		return notAllowed(http.MethodGet)
	}
	show := func(status int, text string) Reply {
		body := "<!DOCTYPE html><title>Device</title>" + text + "\n"
		return Reply{Status: status, Body: &body, Header: http.Header{"Content-Type": {"text/html; charset=utf-8"}}}
	}
	switch code := r.Form.Get("user_code"); {
	case code == "":
		return show(http.StatusOK, `<form><label>Code <input name="user_code" autofocus></label> <button>Approve</button></form>`)
	case e.ApproveDevice(code):
		return show(http.StatusOK, "<p>The device is approved.</p>")
	}
	return show(http.StatusNotFound, "<p>This code is unknown.</p>")
}

// ApproveDevice says yes to the device that shows a user code. It reports whether there is one.
func (e *Endpoint) ApproveDevice(userCode string) bool { return e.decideDevice(userCode, true) }

// DenyDevice says no to the device that shows a user code. It reports whether there is one.
func (e *Endpoint) DenyDevice(userCode string) bool { return e.decideDevice(userCode, false) }

func (e *Endpoint) decideDevice(userCode string, yes bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := e.userCodes.find(strings.ToUpper(strings.ReplaceAll(userCode, "-", "")))
	if d == nil || !time.Now().Before(d.expires) {
		return false
	}
	d.approved, d.denied = yes, !yes
	return true
}

// checkDeviceLocked is RFC 8628 §3.4. A device that is still pending isn't refused until it is answered: so the script has
// its say.
func (e *Endpoint) checkDeviceLocked(c *call, form url.Values, client string) (refusal Reply, refused bool) {
	d := e.devices.find(form.Get("device_code"))
	now := time.Now()
	switch {
	case d == nil || d.client != client || d.used:
		return refuseGrant("the device_code is unknown")
	case !now.Before(d.expires):
		return Reply{Error: "expired_token"}, true
	}
	d.polls++
	early := !d.polled.IsZero() && now.Sub(d.polled) < d.interval*9/10 // messages travel for a time that varies
	d.polled = now
	if early {
		d.interval += slower
		return Reply{Error: "slow_down"}, true
	}
	if n := e.options.ApproveAtPoll; n > 0 && d.polls >= n && !d.denied {
		d.approved = true
	}
	c.device = d
	c.redeem = func(r Reply) (given, Reply, bool) {
		switch {
		case d.used:
			refusal, refused := refuseGrant("the device_code was used")
			return given{}, refusal, refused
		case d.denied:
			return given{}, Reply{Error: "access_denied"}, true
		case !d.approved:
			return given{}, Reply{Error: "authorization_pending"}, true
		}
		d.used = true
		return e.loginLocked(c, client, r), Reply{}, false
	}
	return Reply{}, false
}
