package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) healthcheckCommand() *cobra.Command {
	var ca string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "healthcheck [URL]",
		Short: "Ask an agent whether it is ready: a probe for images without a shell",
		Long: `Ask an agent whether it is ready, and exit 0 or 1: a probe for images without a shell. The URL is http or https, by default
http://127.0.0.1:8085/readyz, or unix:/path of a socket. It needs no configuration, no key and no proxy.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			target := "http://127.0.0.1:8085/readyz"
			if len(args) > 0 {
				target = args[0]
			}
			client, target, err := probe(target, ca)
			if err != nil {
				return &usageError{err}
			}
			ctx, cancel, err := bounded(cmd.Context(), timeout)
			if err != nil {
				return err
			}
			defer cancel()
			return ready(ctx, client, target)
		},
	}
	cmd.Flags().StringVar(&ca, "ca", "", "PEM `file` that has the agent's certificate signed, in place of the system's")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Second, "longest `time` to wait for the answer")
	return cmd
}

// probe returns a client for one question, and what it asks.
func probe(target, ca string) (*http.Client, string, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		target = "http://localhost/readyz"
	}
	if u, err := url.Parse(target); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return nil, "", errors.New("healthcheck: the URL is none of http, https and unix:/path, or has a password in it")
	}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, "", fmt.Errorf("--ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, "", fmt.Errorf("--ca: %s has no certificate", ca)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: transport, CheckRedirect: stay}, target, nil
}

// ready returns nil where the answer is 200.
func ready(ctx context.Context, client *http.Client, target string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(r)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("not ready: %w", err)
	}
	_, _ = io.CopyN(io.Discard, answer.Body, 1<<16)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: the answer is %s", answer.Status)
	}
	return nil
}
