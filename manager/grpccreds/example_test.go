package grpccreds_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"net/http/httptest"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/onetoken/onetoken/internal/redistest"
	"github.com/onetoken/onetoken/manager"
	"github.com/onetoken/onetoken/manager/grpccreds"
	"github.com/onetoken/onetoken/manager/mockendpoint"
)

// docs/using.md shows parts of this example.
func Example() {
	m, address, roots, stop := startExample()
	defer stop()
	tlsConfig := &tls.Config{RootCAs: roots}

	creds, err := grpccreds.New(m, "prod", grpccreds.Options{})
	if err != nil {
		log.Fatal(err)
	}
	conn, err := grpc.NewClient(address, append(creds.DialOptions(),
		grpc.WithTransportCredentials(credentials.NewTLS(tlsConfig)))...)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()

	_, err = pb.NewTestServiceClient(conn).EmptyCall(context.Background(), &pb.Empty{})
	fmt.Println(err)
	// Output: <nil>
}

// startExample starts a manager and a service that takes its tokens.
func startExample() (m *manager.Manager, address string, roots *x509.CertPool, stop func()) {
	server, err := miniredis.Run()
	if err != nil {
		panic(err)
	}
	tokens := mockendpoint.New(mockendpoint.Options{ClientID: "id", ClientSecret: "secret"})
	endpoint := httptest.NewServer(tokens)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	cert, roots := certificate()
	s := &service{accepts: tokens.Accepts}
	serving := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}})), grpc.UnaryInterceptor(s.unary))
	pb.RegisterTestServiceServer(serving, s)
	go func() { _ = serving.Serve(listener) }()
	rdb := redis.NewClient(redistest.Options(server.Addr()))
	m, err = manager.New(manager.Config{Redis: rdb, Environments: map[string]manager.Environment{"prod": {
		TokenURL: endpoint.URL, ClientID: "id", ClientSecret: manager.NewSecret("secret"),
		Origins: []string{"https://" + listener.Addr().String()},
	}}})
	if err != nil {
		panic(err)
	}
	return m, listener.Addr().String(), roots, func() {
		serving.Stop()
		_ = m.Close()
		_ = rdb.Close()
		tokens.Close()
		endpoint.Close()
		server.Close()
	}
}
