package login_test

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/onetoken/onetoken/internal/login"
	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// onDevice logs in by a code that is good for ten minutes and asked for every five seconds; it returns when, in seconds, the
// endpoint was asked, besides what Run returns.
func onDevice(ctx context.Context, t *testing.T, mend func(*client)) (*endpoint.Reply, []int, error) {
	t.Helper()
	c := &client{device: endpoint.Device{
		Code: secret.New("the-device"), UserCode: "WDJB-MJHT", URL: "https://auth.example/device",
		ExpiresIn: 10 * time.Minute, Interval: 5 * time.Second,
	}}
	mend(c)
	begun, shown := time.Now(), 0
	r, err := login.Device{
		Client: c, Timeout: 10 * time.Second, Params: url.Values{"audience": {"a"}},
		Show: func(d *endpoint.Device) {
			shown++
			if d.UserCode != "WDJB-MJHT" || d.ExpiresIn <= 0 {
				t.Errorf("shown: %v", d)
			}
		},
	}.Run(ctx)
	if shown != 1 || c.params.Get("audience") != "a" {
		t.Errorf("shown %d times, parameters %v", shown, c.params)
	}
	var at []int
	for _, when := range c.asked {
		at = append(at, int(when.Sub(begun).Seconds()))
	}
	return r, at, err
}

// script answers with the codes, one after the other, and then with a refresh token; "" is an endpoint that hangs.
func script(codes ...string) func(*client) {
	return func(c *client) {
		c.poll = func(n int) (*endpoint.Reply, error) {
			switch {
			case n > len(codes):
				return reply("the-grant"), nil
			case codes[n-1] == "":
				return nil, nil
			}
			status := map[string]int{"http_503": 503, "http_429": 429, endpoint.CodeUnreachable: 0, endpoint.CodeBadReply: 0}
			e := &endpoint.Error{Code: codes[n-1], Status: 400}
			if s, ok := status[e.Code]; ok {
				e.Status = s
			}
			return nil, e
		}
	}
}

func TestADeviceAsksAtThePaceThatItIsTold(t *testing.T) {
	const (
		pending, slow, away, broke = endpoint.CodePending, endpoint.CodeSlowDown, endpoint.CodeUnreachable, endpoint.CodeBadReply
	)
	for _, c := range []struct {
		name  string
		codes []string
		want  []int
	}{
		{"at once", nil, []int{5}},
		{"in a while", []string{pending, pending}, []int{5, 10, 15}},
		{"slow down", []string{pending, slow, pending, slow, pending}, []int{5, 10, 20, 30, 45, 60}},
		{"away", []string{pending, away, away, away, pending}, []int{5, 10, 20, 40, 80, 85}},
		{"away for long", []string{away, away, away, away, away, away}, []int{5, 15, 35, 75, 135, 195, 255}},
		{"a broken connection, and busy", []string{broke, "http_503", "http_429", pending}, []int{5, 15, 35, 75, 80}},
		{"it hangs", []string{"", pending}, []int{5, 25, 30}}, // for the ten seconds of a request
		{"slow down, and away", []string{slow, away, pending}, []int{5, 15, 35, 45}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, at, err := onDevice(t.Context(), t, script(c.codes...))
				if err != nil || r.RefreshToken.Reveal() != "the-grant" {
					t.Fatalf("%v, %v", r, err)
				}
				if !slices.Equal(at, c.want) {
					t.Errorf("asked at %v; want %v", at, c.want)
				}
			})
		})
	}
}

func TestADeviceWaitsAsLongAsRetryAfterSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, at, err := onDevice(t.Context(), t, func(c *client) {
			c.poll = func(n int) (*endpoint.Reply, error) {
				if n == 1 {
					return nil, &endpoint.Error{Code: "http_429", Status: 429, RetryAfter: 42 * time.Second}
				}
				return reply("the-grant"), nil
			}
		})
		if want := []int{5, 47}; err != nil || !slices.Equal(at, want) {
			t.Errorf("asked at %v, %v; want %v", at, err, want)
		}
	})
}

func TestADeviceGivesUpWhereAskingAgainBringsNothing(t *testing.T) {
	for _, code := range []string{endpoint.CodeDenied, "invalid_grant", "invalid_client", "http_404"} {
		synctest.Test(t, func(t *testing.T) {
			_, at, err := onDevice(t.Context(), t, script(endpoint.CodePending, code))
			var failed *endpoint.Error
			if !errors.As(err, &failed) || failed.Code != code {
				t.Errorf("%v; want %s", err, code)
			}
			if want := []int{5, 10}; !slices.Equal(at, want) {
				t.Errorf("%s: asked at %v; want %v", code, at, want)
			}
		})
	}
}

func TestACodeThatNobodyEntersExpires(t *testing.T) {
	forever := func(c *client) {
		c.poll = func(int) (*endpoint.Reply, error) {
			return nil, &endpoint.Error{Code: endpoint.CodePending, Status: 400}
		}
	}
	for _, c := range []struct {
		name string
		mend func(*client)
		want time.Duration
	}{
		{"by our clock", forever, 10 * time.Minute},
		{"by the endpoint's", script(endpoint.CodePending, endpoint.CodeExpired), 10 * time.Second},
		{"the endpoint gives no life", func(c *client) { forever(c); c.device.ExpiresIn = 0 }, 10 * time.Minute},
		{"while a request is under way", func(c *client) { script("", "", "")(c); c.device.ExpiresIn = 12 * time.Second }, 12 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				_, _, err := onDevice(t.Context(), t, c.mend)
				var waiting *login.WaitError
				if !errors.As(err, &waiting) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v; want a wait that ended", err)
				}
				if want := "the code has expired while waiting for somebody to enter the code"; err != nil && err.Error() != want {
					t.Errorf("%q; want %q", err, want)
				}
				if took := time.Since(begun); took != c.want {
					t.Errorf("after %v; want %v", took, c.want)
				}
			})
		})
	}
}

func TestADeviceEndsWithItsCaller(t *testing.T) {
	for _, codes := range [][]string{{"", ""}, {endpoint.CodePending, endpoint.CodePending, endpoint.CodePending}} {
		synctest.Test(t, func(t *testing.T) {
			cause := errors.New("enough")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(12*time.Second, func() { cancel(cause) })
			begun := time.Now()
			_, _, err := onDevice(ctx, t, script(codes...))
			var waiting *login.WaitError
			if !errors.As(err, &waiting) || !errors.Is(err, cause) || time.Since(begun) != 12*time.Second {
				t.Errorf("%v after %v; want a wait that ended after 12s", err, time.Since(begun))
			}
		})
	}
}

func TestADeviceNeedsARefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, err := onDevice(t.Context(), t, func(c *client) {
			c.poll = func(int) (*endpoint.Reply, error) { return reply(""), nil }
		})
		if !errors.Is(err, login.ErrNoRefreshToken) {
			t.Errorf("%v; want %v", err, login.ErrNoRefreshToken)
		}
	})
}
