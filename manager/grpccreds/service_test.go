package grpccreds_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/grpccreds"
	"github.com/onetoken/onetoken/manager/managertest"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	env  = managertest.Environment
	host = "example.com" // of the certificate
)

// certificate is one for the host, and those who trust it, made outside of every bubble.
var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	return server.TLS.Certificates[0], pool
})

// A service is a gRPC server that takes the endpoint's tokens only, and records the authorizations that reach it.
type service struct {
	pb.UnimplementedTestServiceServer
	accepts func(token string) bool
	trailer metadata.MD // of refusals

	mu   sync.Mutex
	seen [][]string // in each call
}

func (s *service) check(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, values)
	const scheme = "Bearer "
	if len(values) != 1 || len(values[0]) < len(scheme) || values[0][:len(scheme)] != scheme || !s.accepts(values[0][len(scheme):]) {
		_ = grpc.SetTrailer(ctx, s.trailer)
		return status.Error(codes.Unauthenticated, "the server takes no such token")
	}
	return nil
}

func (s *service) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := s.check(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *service) authorizations() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]string(nil), s.seen...)
}

func (s *service) EmptyCall(context.Context, *pb.Empty) (*pb.Empty, error) { return &pb.Empty{}, nil }

// StreamingOutputCall answers as often as it is asked for, after the size of the request's payload.
func (s *service) StreamingOutputCall(r *pb.StreamingOutputCallRequest, stream grpc.ServerStreamingServer[pb.StreamingOutputCallResponse]) error {
	for range r.GetResponseParameters() {
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) StreamingInputCall(stream grpc.ClientStreamingServer[pb.StreamingInputCallRequest, pb.StreamingInputCallResponse]) error {
	var size int32
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: size})
		}
		if err != nil {
			return err
		}
		size += int32(len(r.GetPayload().GetBody()))
	}
}

// FullDuplexCall greets, and then echoes.
func (s *service) FullDuplexCall(stream grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	if err := stream.Send(&pb.StreamingOutputCallResponse{}); err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: r.GetPayload()}); err != nil {
			return err
		}
	}
}

// A rig is a manager, a service that takes its tokens, and a client of that.
type rig struct {
	*managertest.Kit
	service *service
	client  pb.TestServiceClient
	dial    func(o ...grpc.DialOption) pb.TestServiceClient
	creds   *grpccreds.Credentials
}

const life = 100 * time.Second // of a token: one of 10 s is old enough to be replaced

type options struct {
	environment manager.Environment
	plain       bool // no TLS
}

// newRig starts all of it, within the caller's bubble.
func newRig(t *testing.T, o options) *rig {
	t.Helper()
	r := &rig{Kit: managertest.New(t, managertest.Options{
		InMemory: true, Environment: o.environment,
		Endpoint: mockendpoint.Options{ClientSecret: "secret", Life: life},
	})}
	r.service = &service{accepts: r.Endpoint.Accepts}
	theirs, ours := insecure.NewCredentials(), insecure.NewCredentials()
	if !o.plain {
		cert, pool := certificate()
		theirs = credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
		ours = credentials.NewTLS(&tls.Config{RootCAs: pool})
	}
	server := grpc.NewServer(grpc.Creds(theirs),
		grpc.UnaryInterceptor(r.service.unary),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if err := r.service.check(stream.Context()); err != nil {
				return err
			}
			return handler(srv, stream)
		}))
	pb.RegisterTestServiceServer(server, r.service)
	listener := bufconn.Listen(1 << 16)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })

	var err error
	if r.creds, err = grpccreds.New(r.Manager, env, grpccreds.Options{AllowInsecure: o.plain}); err != nil {
		t.Fatal(err)
	}
	r.dial = func(o ...grpc.DialOption) pb.TestServiceClient {
		conn, err := grpc.NewClient("passthrough:///"+host, append(o, grpc.WithTransportCredentials(ours),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return pb.NewTestServiceClient(conn)
	}
	r.client = r.dial(r.creds.DialOptions()...)
	return r
}

// rejecting makes the service reject the token that the manager has, which is old enough for that to count.
func (r *rig) rejecting(t *testing.T) {
	t.Helper()
	if _, err := r.client.EmptyCall(t.Context(), &pb.Empty{}); err != nil {
		t.Fatal(err)
	}
	<-time.After(life/10 + time.Second)
	r.Endpoint.RevokeAll()
	r.service.mu.Lock()
	r.service.seen = nil
	r.service.mu.Unlock()
}

// saw checks how many calls reached the service, each with one authorization.
func (r *rig) saw(t *testing.T, n int) {
	t.Helper()
	seen := r.service.authorizations()
	if len(seen) != n {
		t.Errorf("the service got %d calls, want %d", len(seen), n)
	}
	for _, values := range seen {
		if len(values) != 1 {
			t.Errorf("a call with %d authorizations", len(values))
		}
	}
}

func (r *rig) endpointCalls(t *testing.T, n int) {
	t.Helper()
	if got := r.Endpoint.Calls(); got != n {
		t.Errorf("%d calls of the endpoint, want %d", got, n)
	}
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
}

// bubble runs the test in a bubble, with the certificate made before.
func bubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	t.Parallel()
	certificate()
	synctest.Test(t, test)
}
