package grpccreds_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"

	"github.com/onetoken/onetoken/manager/mockendpoint"
)

func TestARejectedTokenIsReplacedAndTheCallRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		var header metadata.MD
		if _, err := r.client.EmptyCall(t.Context(), &pb.Empty{}, grpc.Header(&header)); err != nil {
			t.Error(err)
		}
		if header.Get("content-type") == nil {
			t.Error("the caller's option got nothing")
		}
		r.saw(t, 2)
		r.endpointCalls(t, 2)
	})
}

func TestWithoutTheInterceptorACallIsNotRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		_, err := r.dial(grpc.WithPerRPCCredentials(r.creds)).EmptyCall(t.Context(), &pb.Empty{})
		wantCode(t, err, codes.Unauthenticated)
		r.saw(t, 1)
		r.endpointCalls(t, 1)
	})
}

func TestAYoungTokenIsNotReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.service.accepts = func(string) bool { return false }
		for range 5 {
			_, err := r.client.EmptyCall(t.Context(), &pb.Empty{})
			wantCode(t, err, codes.Unauthenticated)
		}
		r.saw(t, 5)
		r.endpointCalls(t, 1)
	})
}

func TestAServiceThatTakesNoTokenIsNoLoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.service.accepts = func(string) bool { return false }
		client := r.dial(append(r.creds.DialOptions(), r.creds.DialOptions()[1:]...)...) // by mistake, twice
		began := time.Now()
		calls := 0
		for ; time.Since(began) < 31*time.Second; <-time.After(time.Second) {
			_, err := client.EmptyCall(t.Context(), &pb.Empty{})
			wantCode(t, err, codes.Unauthenticated)
			calls++
		}
		r.endpointCalls(t, 4) // a version is replaced when it is 10 s old
		r.saw(t, calls+3)
	})
}

func TestAStrayRejectionWhileTheEndpointIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		r.Endpoint.SetDefault(mockendpoint.Reply{Status: 503})
		for range 3 {
			_, err := r.client.EmptyCall(t.Context(), &pb.Empty{})
			if wantCode(t, err, codes.Unauthenticated); err.Error() != "rpc error: code = Unauthenticated desc = the server takes no such token" {
				t.Errorf("got %v, want the server's own answer", err)
			}
		}
		r.endpointCalls(t, 2)
		r.service.accepts = func(string) bool { return true }
		if _, err := r.client.EmptyCall(t.Context(), &pb.Empty{}); err != nil {
			t.Errorf("the old token isn't used any more: %v", err)
		}
	})
}

func TestARejectionThatIsNotAboutTheToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		r.service.trailer = metadata.Pairs("www-authenticate", `Bearer realm="x", error="insufficient_scope"`)
		_, err := r.client.EmptyCall(t.Context(), &pb.Empty{})
		wantCode(t, err, codes.Unauthenticated)
		stream, err := r.client.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantCode(t, err, codes.Unauthenticated)
		r.saw(t, 2)
		r.endpointCalls(t, 1)
	})
}

func TestACallThatIsCanceledWhileItsTokenIsReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		gate := make(chan struct{})
		r.Endpoint.Push(mockendpoint.Reply{Gate: gate})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() {
			_, err := r.client.EmptyCall(ctx, &pb.Empty{})
			ended <- err
		}()
		go func() {
			stream, err := r.client.StreamingOutputCall(ctx, &pb.StreamingOutputCallRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			ended <- err
		}()
		if err := r.Endpoint.Await(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // both wait for it
		cancel()
		for range 2 {
			wantCode(t, <-ended, codes.Unauthenticated)
		}
		close(gate)
		synctest.Wait()
		if _, err := r.client.EmptyCall(t.Context(), &pb.Empty{}); err != nil {
			t.Errorf("the next one: %v", err)
		}
		r.endpointCalls(t, 2)
	})
}

func asking(n int) *pb.StreamingOutputCallRequest {
	return &pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: []byte("hello")}, ResponseParameters: make([]*pb.ResponseParameters, n)}
}

func TestAStreamOfTheServerIsBegunAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		stream, err := r.client.StreamingOutputCall(t.Context(), asking(3))
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; ; n++ {
			got, err := stream.Recv()
			if errors.Is(err, io.EOF) && n == 3 {
				break
			}
			if err != nil || string(got.GetPayload().GetBody()) != "hello" {
				t.Fatalf("message %d: %v, %v", n, got, err)
			}
		}
		if md, err := stream.Header(); err != nil || md.Get("content-type") == nil {
			t.Errorf("its header is %v, %v", md, err)
		}
		r.saw(t, 2)
		r.endpointCalls(t, 2)
	})
}

func TestAStreamOfTheServerIsBegunAnewOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		r.service.accepts = func(string) bool { return false }
		stream, err := r.client.StreamingOutputCall(t.Context(), asking(1))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_, err = stream.Recv()
			wantCode(t, err, codes.Unauthenticated)
		}
		r.saw(t, 2)
		r.endpointCalls(t, 2)
	})
}

func TestAStreamThatHasSentIsNotRepeatedButHasTheTokenReplaced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		upload := func() (*pb.StreamingInputCallResponse, error) {
			stream, err := r.client.StreamingInputCall(t.Context())
			if err != nil {
				return nil, err
			}
			_ = stream.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: []byte("four")}})
			return stream.CloseAndRecv()
		}
		_, err := upload()
		wantCode(t, err, codes.Unauthenticated)
		synctest.Wait() // it is replaced behind
		r.endpointCalls(t, 2)
		if got, err := upload(); err != nil || got.GetAggregatedPayloadSize() != 4 {
			t.Errorf("the next one: %v, %v", got, err)
		}
		r.saw(t, 2)
		r.endpointCalls(t, 2)
	})
}

func TestAnUploadOfNothingIsBegunAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		stream, err := r.client.StreamingInputCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := stream.CloseAndRecv(); err != nil || got.GetAggregatedPayloadSize() != 0 {
			t.Errorf("got %v, %v", got, err)
		}
		r.saw(t, 2)
		r.endpointCalls(t, 2)
	})
}

func TestAStreamThatHasSentNothingIsBegunAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		r.rejecting(t)
		stream, err := r.client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		gate := make(chan struct{})
		r.Endpoint.Push(mockendpoint.Reply{Gate: gate})
		greeted := make(chan error, 1)
		go func() {
			_, err := stream.Recv()
			greeted <- err
		}()
		if err := r.Endpoint.Await(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() { sent <- stream.Send(asking(0)) }()
		synctest.Wait()
		if len(sent) != 0 {
			t.Error("a message was sent by the stream that is over")
		}
		close(gate)
		if err := <-greeted; err != nil {
			t.Fatal(err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if got, err := stream.Recv(); err != nil || string(got.GetPayload().GetBody()) != "hello" {
			t.Errorf("got %v, %v", got, err)
		}
		_ = stream.CloseSend()
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("got %v", err)
		}
		r.saw(t, 2)
		r.endpointCalls(t, 2)
	})
}

func TestAStreamThatHasReceivedStaysWhatItIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, options{})
		stream, err := r.client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if md, err := stream.Header(); err != nil || md.Get("content-type") == nil {
			t.Errorf("its header is %v, %v", md, err)
		}
		for range 3 {
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(asking(0)); err != nil {
				t.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Error(err)
		}
		if stream.Context() == nil || len(stream.Trailer()) != 0 {
			t.Error("a stream without its context, or with a trailer")
		}
		r.saw(t, 1)
	})
}
