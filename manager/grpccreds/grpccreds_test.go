package grpccreds_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/oauth"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/grpccreds"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestACallHasOneToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		for name, client := range map[string]pb.TestServiceClient{
			"all":         r.client,
			"credentials": r.dial(grpc.WithPerRPCCredentials(r.creds)),
			"by call":     r.dial(grpc.WithDefaultCallOptions(grpc.PerRPCCredentials(r.creds)), grpc.WithUnaryInterceptor(r.creds.UnaryInterceptor())),
			"twice":       r.dial(append(r.creds.DialOptions(), r.creds.DialOptions()[1:]...)...),
		} {
			if _, err := client.EmptyCall(t.Context(), &pb.Empty{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		r.saw(t, 4)
		r.endpointCalls(t, 1)
	})
}

func TestACallsOwnAuthorizationIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		ctx := metadata.AppendToOutgoingContext(t.Context(), "Authorization", "Bearer its own")
		_, err := r.client.EmptyCall(ctx, &pb.Empty{})
		wantCode(t, err, codes.Unauthenticated)
		if got := r.service.authorizations(); len(got) != 1 || len(got[0]) != 1 || got[0][0] != "Bearer its own" {
			t.Errorf("the service got %q", got)
		}
		r.endpointCalls(t, 0)
	})
}

func TestATokenNeedsTransportSecurity(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		if _, err := grpc.NewClient("passthrough:///"+host, append(r.creds.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...); err == nil {
			t.Error("a connection without transport security")
		}
		if _, err := r.creds.GetRequestMetadata(t.Context(), "https://"+host+"/service"); status.Code(err) != codes.Unauthenticated {
			t.Errorf("asked for on no connection at all: %v", err)
		}
		r.endpointCalls(t, 0)
	})
	t.Run("allowed", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, options{plain: true})
			if _, err := r.client.EmptyCall(t.Context(), &pb.Empty{}); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestTheTokenGoesToTheOriginsOnly(t *testing.T) {
	for name, c := range map[string]struct {
		plain   bool
		base    string
		origins []string
		want    codes.Code
	}{
		"the base URL's":            {base: "https://" + host + "/api/v2"},
		"the origin":                {base: "https://api.example", origins: []string{"https://api.example", "https://" + host + ":443"}},
		"another host":              {base: "https://api." + host, want: codes.Unauthenticated},
		"another port":              {origins: []string{"https://" + host + ":8443"}, want: codes.Unauthenticated},
		"plain, and allowed":        {plain: true, origins: []string{"http://" + host}},
		"plain where TLS is wanted": {plain: true, origins: []string{"https://" + host}, want: codes.Unauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, options{plain: c.plain, environment: manager.Environment{BaseURL: c.base, Origins: c.origins}})
				_, err := r.client.EmptyCall(t.Context(), &pb.Empty{})
				if wantCode(t, err, c.want); err != nil && (!strings.Contains(err.Error(), host) || !strings.Contains(err.Error(), "origins")) {
					t.Errorf("the error doesn't name host and setting: %v", err)
				}
				if n := len(r.service.authorizations()); err != nil && n != 0 {
					t.Errorf("%d calls reached the service", n)
				}
			})
		})
	}
}

func TestTheCodesOfCallsWithoutAToken(t *testing.T) {
	for name, c := range map[string]struct {
		reply mockendpoint.Reply
		want  codes.Code
	}{
		"a failure":        {mockendpoint.Reply{Status: 503, RetryAfter: 4 * time.Second}, codes.Unavailable},
		"a refusal":        {mockendpoint.Reply{Error: "invalid_client"}, codes.Unauthenticated},
		"another type":     {mockendpoint.Reply{TokenType: "DPoP"}, codes.Unauthenticated},
		"a slow endpoint":  {mockendpoint.Reply{Delay: 5 * time.Second}, codes.DeadlineExceeded},
		"nothing goes bad": {mockendpoint.Reply{}, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, options{})
				r.Endpoint.SetDefault(c.reply)
				ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Second, errors.New("the caller's own"))
				defer cancel()
				_, err := r.client.EmptyCall(ctx, &pb.Empty{})
				wantCode(t, err, c.want)
				failed, ok := errors.AsType[*manager.EndpointError](err)
				if want := c.reply.Status != 0 || c.reply.Error != ""; ok != want || ok && failed.RetryAfter <= 0 {
					t.Errorf("an EndpointError in its chain: %v, want %v: %v", ok, want, err)
				}
				if err != nil && len(r.service.authorizations()) != 0 {
					t.Error("the call reached the service")
				}
			})
		})
	}
}

func TestCallsOfAClosedManagerAndWithoutRedis(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.Miniredis.SetError("LOADING Redis is loading the dataset in memory")
		_, err := r.client.EmptyCall(t.Context(), &pb.Empty{})
		wantCode(t, err, codes.Unavailable)
		if _, ok := errors.AsType[*manager.RedisError](err); !ok {
			t.Errorf("got %v", err)
		}
		_ = r.Manager.Close()
		_, err = r.client.EmptyCall(t.Context(), &pb.Empty{})
		wantCode(t, err, codes.Canceled)
		if !errors.Is(err, manager.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

func TestAnUnknownEnvironment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		if _, err := grpccreds.New(r.Manager, "nowhere", grpccreds.Options{}); err == nil || !strings.Contains(err.Error(), env) {
			t.Errorf("got %v, want the known ones named", err)
		}
	})
}

// gRPC's own credentials by an oauth2.TokenSource work with ours: without what a rejection asks for.
func TestGRPCsOwnTokenSource(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		client := r.dial(grpc.WithPerRPCCredentials(oauth.TokenSource{TokenSource: r.Manager.TokenSource(t.Context(), env)}))
		for range 3 {
			if _, err := client.EmptyCall(t.Context(), &pb.Empty{}); err != nil {
				t.Error(err)
			}
			<-time.After(life)
		}
		r.saw(t, 3)
		r.endpointCalls(t, 3)
	})
}
