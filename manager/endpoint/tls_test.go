package endpoint_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onetoken/onetoken/internal/secret"
	"github.com/onetoken/onetoken/manager/endpoint"
)

// An identity is a certificate, by itself or by an authority, and its key.
type identity struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// identify makes a certificate that is valid from and until so long from now; by may be nil.
func identify(t *testing.T, name string, from, until time.Duration, by *identity) identity {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        by == nil, BasicConstraintsValid: true,
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der := must(x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer))
	return identity{must(x509.ParseCertificate(der)), key}
}

func (i identity) certPEM() string { return encoded("CERTIFICATE", i.cert.Raw) }
func (i identity) keyPEM() string  { return pkcs8(i.key) }

func (i identity) pair() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{i.cert.Raw}, PrivateKey: i.key}
}

// An mtls is an endpoint that asks for certificates, by an authority that none of the clients' is of.
type mtls struct {
	url   string
	names []string // of those who came
	forms []url.Values
}

func serveMTLS(t *testing.T, server identity) *mtls {
	t.Helper()
	m := &mtls{}
	authorities := x509.NewCertPool()
	authorities.AddCert(server.cert)
	s := serveTLS(t, &tls.Config{
		Certificates: []tls.Certificate{server.pair()}, ClientAuth: tls.RequireAnyClientCert, ClientCAs: authorities,
	})
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		m.forms = append(m.forms, r.PostForm)
		m.names = append(m.names, r.TLS.PeerCertificates[0].Subject.CommonName)
		answers(200, goodReply)(w, r)
	})
	m.url = s.URL + "/token"
	return m
}

// withCert makes c authenticate by a certificate, and trust only the server's.
func withCert(t *testing.T, c *endpoint.Config, client, server identity) {
	t.Helper()
	c.AuthMethod, c.ClientSecret = endpoint.TLSClientAuth, secret.Secret{}
	c.ClientCertFile, c.ClientKeyFile, c.CAFile = file(t, client.certPEM()), file(t, client.keyPEM()), file(t, server.certPEM())
}

func TestAClientIsKnownByItsCertificate(t *testing.T) {
	server := identify(t, "server", -time.Hour, time.Hour, nil)
	authority := identify(t, "authority", -time.Hour, time.Hour, nil)
	first, second := identify(t, "first", -time.Hour, time.Hour, &authority), identify(t, "second", -time.Hour, time.Hour, nil)
	m := serveMTLS(t, server)
	for _, own := range []bool{false, true} {
		m.names, m.forms = nil, nil
		c := config(m.url)
		withCert(t, &c, first, server)
		if own {
			transport := &http.Transport{}
			t.Cleanup(transport.CloseIdleConnections)
			c.HTTPClient = &http.Client{Transport: transport}
		}
		var reports []string
		c.Report = func(err error) { reports = append(reports, err.Error()) }
		client, err := endpoint.New(c)
		if err != nil {
			t.Fatal(err)
		}
		credential := client.Credential()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		fetch := func() {
			t.Helper()
			if _, err := client.Fetch(ctx); err != nil {
				t.Fatal(err)
			}
		}
		fetch()
		// The certificate and its key are replaced one after the other: in between they don't belong together.
		replace(t, c.ClientCertFile, second.certPEM())
		fetch()
		if len(reports) != 1 || !strings.HasPrefix(reports[0], "client_cert_file, client_key_file: ") || client.Credential() != credential {
			t.Errorf("reported %q, another credential: %v; want both settings named, and no other", reports, client.Credential() != credential)
		}
		replace(t, c.ClientKeyFile, second.keyPEM())
		fetch()
		if got := strings.Join(m.names, " "); got != "first first second" {
			t.Errorf("clients %q; want first first second", got)
		}
		if client.Credential() == credential {
			t.Error("the credential is what it was")
		}
		sent{form: m.forms[0]}.mustHave(t, url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}})
		if own && c.HTTPClient.Transport.(*http.Transport).TLSClientConfig != nil && c.HTTPClient.Transport.(*http.Transport).TLSClientConfig.RootCAs != nil {
			t.Error("the caller's own transport was changed")
		}
	}
}

func TestAuthoritiesAreReadAgain(t *testing.T) {
	server, other := identify(t, "server", -time.Hour, time.Hour, nil), identify(t, "other", -time.Hour, time.Hour, nil)
	s := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{server.pair()}})
	c := config(s.URL + "/token")
	c.CAFile = file(t, "# ours\n"+other.certPEM())
	client := must(endpoint.New(c))
	reply, err := client.Fetch(t.Context())
	if failed := failure(t, reply, err); failed.Code != endpoint.CodeUnreachable || !strings.Contains(failed.Message, "unknown authority") {
		t.Errorf("%v; want an unknown authority", failed)
	}
	replace(t, c.CAFile, other.certPEM()+server.certPEM())
	if _, err := client.Fetch(t.Context()); err != nil {
		t.Errorf("with the server's: %v", err)
	}
	replace(t, c.CAFile, "nothing")
	if _, err := client.Fetch(t.Context()); err != nil {
		t.Errorf("with a broken file: %v", err)
	}
}

func TestBadCertificatesAreErrorsThatNameSettingAndFile(t *testing.T) {
	good, other := identify(t, "good", -time.Hour, time.Hour, nil), identify(t, "other", -time.Hour, time.Hour, nil)
	old, early := identify(t, "old", -time.Hour, -time.Minute, nil), identify(t, "early", time.Hour, 2*time.Hour, nil)
	at := func(at time.Time) string { return at.UTC().Format(time.RFC3339) }
	for _, c := range []struct{ name, cert, key, ca, want string }{
		{"expired", old.certPEM(), old.keyPEM(), "", "client_cert_file, client_key_file: CERT, KEY: the certificate has expired on " + at(old.cert.NotAfter)},
		{"not yet valid", early.certPEM(), early.keyPEM(), "", "client_cert_file, client_key_file: CERT, KEY: the certificate isn't valid before " + at(early.cert.NotBefore)},
		{"another key", good.certPEM(), other.keyPEM(), "", "client_cert_file, client_key_file: CERT, KEY: are no certificate in PEM and the key that belongs to it"},
		{"the two exchanged", good.keyPEM(), good.certPEM(), "", "client_cert_file, client_key_file: CERT, KEY: are no certificate in PEM and the key that belongs to it"},
		{"an empty key", good.certPEM(), "", "", "client_key_file: KEY: is empty"},
		{"an expired authority", good.certPEM(), good.keyPEM(), old.certPEM(), "ca_file: CA: the certificate has expired on " + at(old.cert.NotAfter)},
		{"no authority", good.certPEM(), good.keyPEM(), good.keyPEM(), "ca_file: CA: has no PEM certificates"},
		{"a damaged authority", good.certPEM(), good.keyPEM(), encoded("CERTIFICATE", []byte("x")), "ca_file: CA: a certificate in it can't be read"},
	} {
		conf := config("https://auth.example/token")
		withCert(t, &conf, good, good)
		replace(t, conf.ClientCertFile, c.cert)
		replace(t, conf.ClientKeyFile, c.key)
		if c.ca != "" {
			replace(t, conf.CAFile, c.ca)
		}
		want := strings.NewReplacer("CERT", `"`+conf.ClientCertFile+`"`, "KEY", `"`+conf.ClientKeyFile+`"`, "CA:", `"`+conf.CAFile+`":`).Replace(c.want)
		if _, err := endpoint.New(conf); err == nil || err.Error() != want {
			t.Errorf("%s: %v; want %s", c.name, err, want)
		}
	}
	conf := config("https://auth.example/token")
	withCert(t, &conf, good, good)
	replace(t, conf.CAFile, old.certPEM()+good.certPEM())
	if _, err := endpoint.New(conf); err != nil {
		t.Errorf("an expired authority beside a good one: %v", err)
	}
}

func TestATransportThatTakesNoCertificateIsAnError(t *testing.T) {
	good := identify(t, "good", -time.Hour, time.Hour, nil)
	for name, transport := range map[string]http.RoundTripper{
		"of its own kind": stub(nil),
		"that makes TLS connections by itself": &http.Transport{
			DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return nil, nil },
		},
	} {
		for _, setting := range []string{"client_cert_file", "ca_file"} {
			c := config("https://auth.example/token")
			if setting == "client_cert_file" {
				withCert(t, &c, good, good)
			} else {
				c.CAFile = file(t, good.certPEM())
			}
			c.HTTPClient = &http.Client{Transport: transport}
			if _, err := endpoint.New(c); err == nil || !strings.HasPrefix(err.Error(), setting+": can't be added to the HTTPClient, ") {
				t.Errorf("a transport %s: %v; want %s named", name, err, setting)
			}
		}
	}
	// One that brings its certificate itself.
	c := config("https://auth.example/token")
	c.AuthMethod, c.ClientSecret, c.HTTPClient = endpoint.TLSClientAuth, secret.Secret{}, &http.Client{Transport: stub(nil)}
	if _, err := endpoint.New(c); err != nil {
		t.Errorf("a transport with a certificate of its own: %v", err)
	}
}

// serveHTTP2 starts an endpoint that speaks HTTP/2, and returns the configuration of a client that trusts it alone.
func serveHTTP2(t *testing.T, h http.HandlerFunc, configure func(*httptest.Server)) endpoint.Config {
	t.Helper()
	identity := identify(t, "server", -time.Hour, time.Hour, nil)
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{identity.pair()}, NextProtos: []string{"h2"}}
	configure(server)
	server.StartTLS()
	t.Cleanup(server.Close)
	c := config(server.URL + "/token")
	c.CAFile = file(t, identity.certPEM())
	return c
}

// HTTP/2 would put requests that overlap on one connection, which one gone silent would silence.
func TestRequestsAtTheSameTimeHaveConnectionsOfTheirOwn(t *testing.T) {
	came := make(chan string)
	answer := make(chan struct{})
	client := must(endpoint.New(serveHTTP2(t, func(w http.ResponseWriter, r *http.Request) {
		came <- r.Proto + " " + r.RemoteAddr
		<-answer
		answers(200, goodReply)(w, r)
	}, func(*httptest.Server) {})))
	var work sync.WaitGroup
	from := map[string]bool{}
	for range 2 {
		work.Go(func() {
			if _, err := client.Fetch(t.Context()); err != nil {
				t.Error(err)
			}
		})
		who := <-came
		from[who] = strings.HasPrefix(who, "HTTP/2.0 ")
	}
	close(answer)
	work.Wait()
	if len(from) != 2 || slices.Contains(slices.Collect(maps.Values(from)), false) {
		t.Errorf("requests came by %v; want two connections of HTTP/2", from)
	}
}

func TestAConnectionThatIsMadeTooLateIsClosed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	goOn, closed := make(chan struct{}), make(chan struct{})
	c := serveHTTP2(t, answers(200, goodReply), func(s *httptest.Server) {
		s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cancel()
			<-goOn
			return nil, nil
		}
		s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				close(closed)
			}
		}
	})
	c.ConnectTimeout = moment
	reply, err := must(endpoint.New(c)).Fetch(ctx)
	if failed := failure(t, reply, err); !errors.Is(failed, context.Canceled) {
		t.Errorf("%v; want a canceled request", failed)
	}
	close(goOn)
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Error("the connection is still there")
	}
}
