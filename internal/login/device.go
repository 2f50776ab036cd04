package login

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/onetoken/onetoken/manager/endpoint"
)

const (
	slowDown     = 5 * time.Second // RFC 8628 §3.5
	defaultLife  = 10 * time.Minute
	longestPause = time.Minute
)

// A Device logs in by a person on another device: one with a browser, where this one needs none.
type Device struct {
	Client  Client
	Timeout time.Duration          // of each request
	Params  url.Values             // further parameters of the request that begins it
	Show    func(*endpoint.Device) // tells the person what to do
}

// Run returns what the login has brought, with a refresh token. The error is a *[WaitError] where the person didn't finish
// before ctx or the code ended, else the client's.
func (d Device) Run(ctx context.Context) (*endpoint.Reply, error) {
	begun := time.Now()
	device, err := Call(ctx, "device authorization", d.Timeout, func(ctx context.Context) (*endpoint.Device, error) { return d.Client.Device(ctx, d.Params) })
	if err != nil {
		return nil, err
	}
	if device.ExpiresIn <= 0 {
		device.ExpiresIn = defaultLife
	}
	d.Show(device)
	waiting, cancel := context.WithDeadlineCause(ctx, begun.Add(device.ExpiresIn), errExpired)
	defer cancel()
	reply, err := d.poll(waiting, device)
	if err != nil {
		return nil, err
	}
	return granted(reply)
}

// errExpired is the end of a code that nobody has entered in time.
var errExpired error = expiredError{}

type expiredError struct{}

func (expiredError) Error() string        { return "the code has expired" }
func (expiredError) Is(target error) bool { return target == context.DeadlineExceeded }

// poll asks until the person has finished (RFC 8628 §3.5).
func (d Device) poll(ctx context.Context, device *endpoint.Device) (*endpoint.Reply, error) {
	pace := pace{interval: device.Interval}
	for wait := pace.interval; ; {
		if err := sleep(ctx, wait); err != nil {
			return nil, &WaitError{"for somebody to enter the code", err}
		}
		reply, err := Call(ctx, "token", d.Timeout, func(ctx context.Context) (*endpoint.Reply, error) {
			return d.Client.ExchangeDevice(ctx, device.Code)
		})
		var failed *endpoint.Error
		switch {
		case err == nil:
			return reply, nil
		case ctx.Err() != nil:
			continue // to where its end is told
		case !errors.As(err, &failed):
			return nil, err
		case failed.Code == endpoint.CodeExpired:
			return nil, &WaitError{"for somebody to enter the code", errExpired}
		}
		var goOn bool
		if wait, goOn = pace.after(failed); !goOn {
			return nil, err
		}
	}
}

// A pace is how often a device asks.
type pace struct {
	interval time.Duration // between two answers
	backoff  time.Duration // 0 unless there was none at last
}

// after returns how long to wait after a failure, or false where asking again brings nothing.
func (p *pace) after(failed *endpoint.Error) (time.Duration, bool) {
	switch {
	case failed.Code == endpoint.CodePending:
		p.backoff = 0
	case failed.Code == endpoint.CodeSlowDown:
		p.interval += slowDown
		p.backoff = 0
	case passes(failed):
		p.backoff = min(2*max(p.backoff, p.interval), max(longestPause, p.interval))
	default:
		return 0, false
	}
	return max(p.interval, p.backoff, failed.RetryAfter), true
}

// passes reports whether a failure is a disturbance that ends by itself: of the network, or of a busy endpoint.
func passes(failed *endpoint.Error) bool {
	switch failed.Code {
	case endpoint.CodeUnreachable, endpoint.CodeTimeout:
		return true
	case endpoint.CodeBadReply:
		return failed.Status == 0 // the connection broke before the answer
	}
	return failed.Status >= 500 || failed.Status == http.StatusTooManyRequests
}

// sleep waits, or returns ctx's cause.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
