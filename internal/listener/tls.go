package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/certs"
	"github.com/paraglide/glide/internal/errs"
)

// TLS is a listener whose clients may speak TLS: the first byte that one sends tells. A
// client that sends none does not hold up others, because its connection's first read waits
// for it.
type TLS struct {
	net.Listener
	// Config is asked for each connection over TLS.
	Config func() *tls.Config
	// Require refuses clients that do not speak TLS, with an answer.
	Require bool
	// Log gets the failures of clients, at the level debug.
	Log *slog.Logger
}

// Accept implements net.Listener.
func (l *TLS) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &eitherConn{Conn: nc, l: l}, nil
}

// handshakeTime is how long a client may take to read what begins TLS.
const handshakeTime = 10 * time.Second

// handshakeRecord is the first byte of a TLS connection. No request begins with it.
const handshakeRecord = 0x16

// eitherConn is a connection over TLS or not. One goroutine reads at a time, and nothing is
// written before the first read has returned.
type eitherConn struct {
	net.Conn // the one below: deadlines and addresses are its own
	l        *TLS

	once sync.Once
	err  error // of the first read
	over net.Conn

	mu    sync.Mutex
	state *tls.ConnectionState // nil: no TLS, or none yet
	by    *tls.Config          // that the client's certificate was verified with
	tls   *tls.Conn
}

// Read implements net.Conn.
func (c *eitherConn) Read(p []byte) (int, error) {
	c.once.Do(func() { c.err = c.begin() })
	if c.err != nil {
		return 0, c.err
	}
	return c.over.Read(p)
}

// begin finds out what the client speaks.
func (c *eitherConn) begin() error {
	var first [1]byte
	if _, err := io.ReadFull(c.Conn, first[:]); err != nil {
		return err
	}
	whole := &prefixed{Conn: c.Conn, first: first[:]}
	switch {
	case first[0] == handshakeRecord:
		return c.handshake(whole)
	case c.l.Require:
		refuse(whole, http.StatusBadRequest, errs.New(errs.Invalid, "the API here speaks TLS only: use https, glide --tls-ca FILE"))
		return io.EOF
	}
	c.over = whole
	return nil
}

// handshake begins TLS. The connection's deadline for reads bounds it.
func (c *eitherConn) handshake(whole net.Conn) error {
	_ = c.SetWriteDeadline(time.Now().Add(handshakeTime))
	config := c.l.Config()
	t := tls.Server(whole, config)
	err := t.Handshake()
	_ = c.SetWriteDeadline(time.Time{})
	if err != nil {
		c.l.Log.Debug("api: a client could not begin TLS", "client", c.RemoteAddr().String(), "error", err)
		linger(c.Conn) // so that it can read why
		return io.EOF
	}
	state := t.ConnectionState()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over, c.tls, c.state, c.by = t, t, &state, config
	return nil
}

// current is what is known of the client now. When the authority has changed, its certificate
// is verified again: it may stay connected for long.
func (c *eitherConn) current() *tls.ConnectionState {
	c.mu.Lock()
	defer c.mu.Unlock()
	config := c.l.Config()
	if c.state == nil || c.by == config || len(c.state.VerifiedChains) == 0 {
		return c.state
	}
	state := *c.state // the other one is in use
	var err error
	if state.VerifiedChains, err = certs.Verify(state.PeerCertificates, config.ClientCAs); err != nil {
		state.VerifiedChains = nil
	}
	c.state, c.by = &state, config
	return c.state
}

// Write implements net.Conn.
func (c *eitherConn) Write(p []byte) (int, error) {
	if c.over == nil {
		return 0, net.ErrClosed
	}
	return c.over.Write(p)
}

// Close implements net.Conn. It says goodbye to a client over TLS.
func (c *eitherConn) Close() error {
	c.mu.Lock()
	t := c.tls
	c.mu.Unlock()
	if t != nil {
		return t.Close()
	}
	return c.Conn.Close()
}

// CloseWrite ends what the client gets, and leaves what it sends.
func (c *eitherConn) CloseWrite() error {
	c.mu.Lock()
	t := c.tls
	c.mu.Unlock()
	if t != nil {
		return t.CloseWrite()
	}
	return closeWrite(c.Conn)
}

// prefixed is a connection whose first bytes were read already.
type prefixed struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (c *prefixed) Read(p []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(p, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func closeWrite(nc net.Conn) error {
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// linger waits for the client to close, for a moment: unread data at the close of a socket
// would discard what it was sent last.
func linger(nc net.Conn) {
	_ = nc.SetDeadline(time.Now().Add(rejectTime))
	if closeWrite(nc) == nil {
		_, _ = io.Copy(io.Discard, nc)
	}
}

type connKey struct{}

// ConnContext is for http.Server: WithState finds the connection of a request by it.
func ConnContext(ctx context.Context, nc net.Conn) context.Context {
	if c, ok := nc.(*eitherConn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// WithState sets the TLS of requests, which http.Server knows for its own connections only.
func WithState(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*eitherConn); ok {
			with := *r
			with.TLS = c.current()
			r = &with
		}
		next.ServeHTTP(w, r)
	})
}
