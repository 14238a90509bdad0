// Package client uses the control API of a Glide daemon. Its methods are the
// commands of the command line. Errors have the same kinds on both sides (see
// KindOf).
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/listener"
)

// Options are the settings of a Client. The zero value has the defaults.
type Options struct {
	// Token is the token that a daemon with --token-file requires.
	Token string
	// TLS, if set, is spoken with the daemon at an address of TCP. Its certificate must be
	// for that address, unless TLS verifies it in another way.
	TLS *tls.Config
	// Permit, if set, is called before a TCP connection to an address, after names
	// are resolved. Its error becomes the request's.
	Permit func(netip.Addr) error
	// PeerTimeout is how long the daemon's host may be silent, over TCP, before a
	// connection is closed; 45 s by default. It does not bound the daemon's work.
	PeerTimeout time.Duration
}

// Client connects to one daemon. It may be used concurrently.
type Client struct {
	addr  api.Addr
	token string
	http  *http.Client
	base  string
	beat  time.Duration // how often an import reports that it has no data yet
}

const (
	dialTimeout = 5 * time.Second
	// continueTimeout is how long the daemon may take to refuse an import
	// before any of it is sent.
	continueTimeout = 10 * time.Second
	// maxError bounds the part of an error answer that is read, in bytes.
	maxError = 1 << 20
)

// New returns a client of the daemon at addr: unix:PATH or tcp:HOST:PORT. It does
// not connect yet.
func New(addr string, o Options) (*Client, error) {
	a, err := api.ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	c := &Client{addr: a, token: o.Token, base: "http://glide", beat: beat}
	switch {
	case a.Network == "tcp" && o.TLS != nil:
		c.base, o.TLS = "https://"+a.Address, named(o.TLS, a.Address)
	case a.Network == "tcp":
		c.base = "http://" + a.Address
	}
	c.http = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				d := net.Dialer{Timeout: dialTimeout, Control: control(o.Permit)}
				nc, err := d.DialContext(ctx, a.Network, a.Address)
				if err == nil {
					listener.WatchPeer(nc, cmp.Or(o.PeerTimeout, listener.PeerTimeout))
				}
				return nc, err
			},
			TLSClientConfig:       o.TLS,
			TLSHandshakeTimeout:   dialTimeout,
			ExpectContinueTimeout: continueTimeout,
			DisableCompression:    true,
			MaxIdleConnsPerHost:   4,
			WriteBufferSize:       64 << 10,
			ReadBufferSize:        64 << 10,
		},
	}
	return c, nil
}

// control adapts permit to a dialer.
func control(permit func(netip.Addr) error) func(network, address string, c syscall.RawConn) error {
	return func(network, address string, _ syscall.RawConn) error {
		if permit == nil || network == "unix" {
			return nil
		}
		a, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return permit(a.Addr())
	}
}

// Addr is the daemon's address.
func (c *Client) Addr() string { return c.addr.String() }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// path escapes and joins parts of a path.
func path(parts ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, p := range parts {
		b.WriteByte('/')
		if p == "." || p == ".." { // cleaning would shorten the path
			p = strings.ReplaceAll(p, ".", "%2E")
		} else {
			p = url.PathEscape(p)
		}
		b.WriteString(p)
	}
	return b.String()
}

// flags are query parameters. Those with an empty value are omitted.
func flags(kv ...string) string {
	q := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		if kv[i+1] != "" {
			q.Set(kv[i], kv[i+1])
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

func onlyTrue(b bool) string {
	if b {
		return "true"
	}
	return ""
}

// call makes a request with the body in, if it is not nil, and returns the decoded
// answer.
func call[Out any](ctx context.Context, c *Client, method, target string, in any) (out Out, err error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return out, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+target, body)
	if err != nil {
		return out, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if report := api.Progress(ctx); report != nil {
		req = withProgress(req, report)
	}
	resp, err := c.do(req)
	if err != nil {
		return out, err
	}
	return answer[Out](c, resp)
}

// withProgress asks for progress during the request, and reports it.
func withProgress(req *http.Request, report func(done, total uint64)) *http.Request {
	req.Header.Set(api.ProgressHeader, "1")
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			if done, total, ok := api.ParseProgress(header.Get(api.ProgressHeader)); ok && code == http.StatusProcessing {
				report(done, total)
			}
			return nil
		},
	}))
}

// answer decodes the body of a successful answer.
func answer[Out any](c *Client, resp *http.Response) (out Out, err error) {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusNoContent {
		return out, nil
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return out, c.broken(resp.Request, err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, errs.New(errs.Unavailable, "the server at %s is not a glide daemon, or has another version: %w", c.addr, err)
	}
	return out, nil
}

// do sends a request. An unsuccessful answer is an error.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(req, err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return nil, c.broken(req, err)
	}
	var e api.Error
	if err := json.Unmarshal(b, &e); err != nil || e.Error == "" || e.Kind == "" {
		return nil, errs.New(errs.Unavailable, "the server at %s is not a glide daemon: it says %s", c.addr, resp.Status)
	}
	return nil, errs.New(errs.FromString(e.Kind), "%s", e.Error)
}

// broken explains a failed connection.
func (c *Client) broken(req *http.Request, err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the URL, which the user did not type
	}
	var dial *net.OpError
	switch {
	case req.Context().Err() != nil:
		return context.Cause(req.Context())
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return errs.New(errs.Unavailable, "%s", notRunning(c.addr))
	case errors.Is(err, fs.ErrPermission):
		return errs.New(errs.Unavailable, "no permission to connect to %s: use the user (or group) that runs glide serve", c.addr)
	case errs.KindOf(err) != errs.Internal: // Permit's, or that of TLS
		return err
	case overTLS(err) != "":
		return errs.New(errs.Denied, "glide serve at %s %s", c.addr, overTLS(err)) // it will not pass
	case errors.As(err, &dial) && dial.Op == "dial":
		return errs.New(errs.Unavailable, "glide serve cannot be reached at %s: %w", c.addr, dial.Err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return errs.New(errs.Unavailable, "glide serve at %s closed the connection before it answered: see its log", c.addr)
	}
	return errs.New(errs.Unavailable, "the connection to glide serve at %s broke: %w", c.addr, err)
}
