// Package listener accepts connections to the API: it limits them, survives failures that
// pass, and notices peers whose machines are gone.
package listener

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// PeerTimeout is how long the other side's host may be silent, over TCP, before a
// connection is closed.
const PeerTimeout = 45 * time.Second

// WatchPeer makes the kernel notice, within d, that the host at the other end of a TCP
// connection is gone: an idle connection is probed, and sent data must be
// acknowledged. It leaves other connections as they are.
func WatchPeer(nc net.Conn, d time.Duration) {
	t, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	// Best effort: without it the peer is noticed later.
	_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: d / 2, Interval: max(time.Second, d/6), Count: 3})
	if raw, err := t.SyscallConn(); err == nil {
		setUserTimeout(raw, d)
	}
}

// Listener is a listener for the API's clients. It waits and retries after temporary
// failures of accept, notices vanished peers, and limits the number of connections. It
// answers a connection beyond the limit with an error.
type Listener struct {
	net.Listener
	o       Options
	open    atomic.Int64
	refused atomic.Uint64
	turning atomic.Int64
	done    chan struct{}
	once    sync.Once
	said    [2]time.Time // when the log had last that an accept failed, and that one was refused
}

// Options are the settings of a Listener. The zero value has the defaults.
type Options struct {
	PeerTimeout time.Duration // PeerTimeout
	MaxConns    int           // 256
	Log         *slog.Logger  // none
}

const (
	defaultMaxConns = 256
	// maxRejected bounds the connections that are being refused with an answer, and
	// rejectTime how long a client may take to read it.
	maxRejected = 32
	rejectTime  = 2 * time.Second
	// sayEvery is how often the same problem is logged.
	sayEvery = time.Minute
)

// Listen makes a Listener of l.
func Listen(l net.Listener, o Options) *Listener {
	if o.PeerTimeout == 0 {
		o.PeerTimeout = PeerTimeout
	}
	if o.MaxConns == 0 {
		o.MaxConns = defaultMaxConns
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Listener{Listener: l, o: o, done: make(chan struct{})}
}

// Counts returns the open connections, their limit, and the connections refused since
// the start.
func (l *Listener) Counts() (open, limit int, refused uint64) {
	return int(l.open.Load()), l.o.MaxConns, l.refused.Load()
}

// Close implements net.Listener.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// Accept implements net.Listener. One goroutine calls it.
func (l *Listener) Accept() (net.Conn, error) {
	for pause := time.Duration(0); ; {
		nc, err := l.Listener.Accept()
		switch {
		case err == nil && l.open.Load() < int64(l.o.MaxConns):
			WatchPeer(nc, l.o.PeerTimeout)
			l.open.Add(1)
			return &conn{Conn: nc, l: l}, nil
		case err == nil:
			pause = 0
			l.reject(nc)
		case !passes(err):
			return nil, err
		default:
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			l.say(0, "api: connections cannot be accepted, trying again", "error", err)
			select {
			case <-time.After(pause):
			case <-l.done:
			}
		}
	}
}

// passes tells whether a failed accept may work again later, that is, unless the
// listener itself is broken.
func passes(err error) bool {
	for _, e := range []error{net.ErrClosed, syscall.EBADF, syscall.EINVAL, syscall.ENOTSOCK, syscall.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return false
		}
	}
	var errno syscall.Errno
	return errors.As(err, &errno)
}

func (l *Listener) say(what int, msg string, args ...any) {
	if now := time.Now(); now.Sub(l.said[what]) >= sayEvery {
		l.said[what] = now
		l.o.Log.Warn(msg, append(args, "address", l.Addr().String())...)
	}
}

// reject answers a connection beyond the limit.
func (l *Listener) reject(nc net.Conn) {
	l.refused.Add(1)
	l.say(1, "api: connections are refused: there are as many as there may be", "limit", l.o.MaxConns)
	if l.turning.Add(1) > maxRejected {
		l.turning.Add(-1)
		_ = nc.Close()
		return
	}
	go func() {
		defer l.turning.Add(-1)
		defer func() { _ = nc.Close() }()
		refuse(nc, http.StatusServiceUnavailable, errs.New(errs.Unavailable, "too many connections to the API at %s:%s: there are %d, its limit: try again later, or at another of its addresses", l.Addr().Network(), l.Addr(), l.o.MaxConns))
	}()
}

// refuse answers a request that nobody has read, but for one over TLS, whose client could not
// read the answer. It leaves the connection to be closed.
func refuse(nc net.Conn, status int, why error) {
	_ = nc.SetDeadline(time.Now().Add(rejectTime))
	b := make([]byte, 4096)
	if n, err := nc.Read(b); err != nil || n > 0 && b[0] == handshakeRecord {
		return
	}
	if _, err := nc.Write(answer(status, why)); err == nil {
		linger(nc)
	}
}

// answer is a whole answer with an error.
func answer(status int, why error) []byte {
	body, err := json.Marshal(api.Error{Error: why.Error(), Kind: errs.KindOf(why).String()})
	if err != nil {
		return nil // two strings
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, http.StatusText(status), len(body), body)
}

// conn is a connection that counts against the limit.
type conn struct {
	net.Conn
	l    *Listener
	once sync.Once
}

// CloseWrite ends what the client gets, and leaves what it sends.
func (c *conn) CloseWrite() error { return closeWrite(c.Conn) }

// NetConn is the connection below.
func (c *conn) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() { c.l.open.Add(-1) })
	return c.Conn.Close()
}
