package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/nbd/internal/crowd"
	"github.com/paraglide/glide/nbd/internal/socket"
)

// socketBuffer is asked for on each socket, in bytes, in each direction.
const socketBuffer = 4 << 20

// watchInterval is how often connections are checked: see conn.look.
const watchInterval = 500 * time.Millisecond

// Op is a kind of request, for Options.Observe.
type Op uint8

// The kinds of requests.
const (
	OpRead Op = iota
	OpWrite
	OpFlush
	OpTrim
	OpZero
	OpCache
	OpStatus
	NumOps = iota // how many kinds there are
)

var opNames = [NumOps]string{"read", "write", "flush", "trim", "zero", "cache", "status"}

// String returns the name of the operation, in lower case.
func (op Op) String() string {
	if int(op) < len(opNames) {
		return opNames[op]
	}
	return fmt.Sprintf("op %d", uint8(op))
}

// TLSMode says whether connections are encrypted.
type TLSMode uint8

// The modes of TLS. With TLSAllow the client chooses; with TLSRequire nothing
// but the start of TLS is possible before it.
const (
	TLSOff TLSMode = iota
	TLSAllow
	TLSRequire
)

// Options are the settings of a Server. The zero value of each field means its default.
type Options struct {
	// TLS needs a TLSConfig unless it is TLSOff, the default. Clients are
	// authenticated if the configuration's ClientAuth says so.
	TLS       TLSMode
	TLSConfig *tls.Config
	// HandshakeTimeout is how long a client may take in total to choose an export.
	// 10 s by default.
	HandshakeTimeout time.Duration
	// PeerTimeout is how long the host of a TCP client may leave data or keep-alive
	// probes unanswered before the connection is closed. 45 s by default; at least
	// 1 s. Only Linux keeps to it exactly.
	PeerTimeout time.Duration
	// WriteTimeout is how long a network client may leave replies unread, or a
	// request half sent, without progress, before it is disconnected. 60 s by
	// default.
	WriteTimeout time.Duration
	// LocalTimeout is WriteTimeout for a client on this machine (a unix socket): a
	// client that stalls is paused, not gone, and may continue. 10 min by default.
	// After WriteTimeout, such clients are disconnected earlier if together they hold
	// too much memory.
	LocalTimeout time.Duration
	// MaxConns bounds the connections. One more is told so in the handshake. By
	// default half of the files that the process may open, at most 8192.
	MaxConns int
	// Readers bounds the calls of Device.ReadAt and Device.Extents at one time,
	// over all connections; 1024 by default. ReadersPerConn bounds those for
	// one connection; 64 by default.
	Readers        int
	ReadersPerConn int
	// Logger gets the events of connections: opened and closed at Info,
	// unsuccessful handshakes at Debug. None by default.
	Logger *slog.Logger
	// OnPanic, if set, is called when the device or the server has panicked in a
	// request, which gets EIO, or whose connection ends. The log has the stack of the
	// first panic from each place.
	OnPanic func(v any, stack []byte)
	// Observe, if set, is called for every request that the device dealt with,
	// well or not, with the number of bytes that it was about, and the time from
	// its receipt (for a write: from the call of the device) to its answer. It
	// is called on the hot path, by many goroutines at once.
	Observe func(op Op, bytes int, d time.Duration)

	maxStalled int64 // bytes
}

// Validate returns all that is wrong with the options.
func (o *Options) Validate() error {
	var errs []error
	if o.TLS > TLSRequire {
		errs = append(errs, fmt.Errorf("nbd: no such TLS mode: %d", o.TLS))
	}
	if o.TLS != TLSOff && o.TLSConfig == nil {
		errs = append(errs, errors.New("nbd: TLS needs a TLSConfig"))
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"HandshakeTimeout", int64(o.HandshakeTimeout)},
		{"PeerTimeout", int64(o.PeerTimeout)},
		{"WriteTimeout", int64(o.WriteTimeout)},
		{"LocalTimeout", int64(o.LocalTimeout)},
		{"MaxConns", int64(o.MaxConns)},
		{"Readers", int64(o.Readers)},
		{"ReadersPerConn", int64(o.ReadersPerConn)},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("nbd: %s is negative", f.name))
		}
	}
	return errors.Join(errs...)
}

// withDefaults returns the options with all fields set that need to be.
func (o Options) withDefaults() Options {
	if o.HandshakeTimeout == 0 {
		o.HandshakeTimeout = 10 * time.Second
	}
	if o.PeerTimeout == 0 {
		o.PeerTimeout = 45 * time.Second
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 60 * time.Second
	}
	if o.LocalTimeout == 0 {
		o.LocalTimeout = 10 * o.WriteTimeout
	}
	if o.MaxConns == 0 {
		o.MaxConns = defaultMaxConns()
	}
	if o.maxStalled == 0 {
		o.maxStalled = maxStalled
	}
	if o.Readers == 0 {
		o.Readers = 1024
	}
	if o.ReadersPerConn == 0 {
		o.ReadersPerConn = 64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Server serves the exports of an Exporter on any number of listeners. Set the
// exported fields, then call Serve for each listener (or ServeConn for each
// connection), and Shutdown once.
type Server struct {
	Exporter Exporter
	Options  Options

	once     sync.Once
	opt      Options // with defaults
	log      *slog.Logger
	stopping atomic.Bool
	readers  readers
	wg       sync.WaitGroup // all goroutines that work for a connection

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	timer     *time.Timer // calls watch; nil while there is no connection
	crowd     crowd.Crowd
	turning   int       // of conns: those that are being turned away
	refused   uint64    // connections that were too many
	saidFull  time.Time // when the log had that last

	panics panics
}

func (s *Server) init() {
	s.once.Do(func() {
		s.opt = s.Options.withDefaults()
		s.log = s.opt.Logger
		if s.opt.TLSConfig != nil {
			// Small records, to begin with, are for web pages.
			s.opt.TLSConfig = s.opt.TLSConfig.Clone()
			s.opt.TLSConfig.DynamicRecordSizingDisabled = true
		}
		s.readers.max, s.readers.perConn, s.readers.wg = s.opt.Readers, s.opt.ReadersPerConn, &s.wg
		s.listeners = make(map[net.Listener]struct{})
		s.conns = make(map[*conn]struct{})
	})
}

// Serve accepts connections from l until ctx is done, Shutdown is called, or l
// fails, of which only the last is an error. It closes l. Connections that were
// accepted live on until their clients or Shutdown end them.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.ServeExporter(ctx, l, s.Exporter)
}

// ServeExporter is Serve with another Exporter for the listener's connections.
func (s *Server) ServeExporter(ctx context.Context, l net.Listener, e Exporter) error {
	defer func() { _ = l.Close() }()
	if err := s.Options.Validate(); err != nil {
		return err
	}
	s.init()
	s.mu.Lock()
	if s.stopping.Load() {
		s.mu.Unlock()
		return nil
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()

	var pause time.Duration
	var said time.Time
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.start(nc, e, false, func() {})
		case ctx.Err() != nil || s.stopping.Load():
			return nil
		case fatal(err):
			return fmt.Errorf("nbd: accept: %w", err)
		default:
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			if now := time.Now(); now.Sub(said) >= sayEvery {
				said = now
				s.log.Warn("nbd: connections cannot be accepted, trying again", "err", err)
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}

// ServeConn serves one connection, which it takes over. It returns when the
// connection has ended and no write, trim or zeroing of it is under way any more:
// what another connection is asked for then happens after all that this one was.
// It counts among the connections, and is never one too many.
func (s *Server) ServeConn(nc net.Conn) error {
	if err := s.Options.Validate(); err != nil {
		_ = nc.Close()
		return err
	}
	s.init()
	over := make(chan struct{})
	s.start(nc, s.Exporter, true, func() { close(over) })
	<-over
	return nil
}

// start begins to serve a connection; over is called when its receive loop, which
// is what calls the device for all that changes it, has ended.
func (s *Server) start(nc net.Conn, e Exporter, exempt bool, over func()) {
	tune(nc, s.opt.PeerTimeout)
	c := &conn{srv: s, exp: e, stallLimit: s.opt.WriteTimeout}
	if _, local := nc.(*net.UnixConn); local {
		c.stallLimit = s.opt.LocalTimeout
	}
	c.out = newOutlet(nc, s.opt.WriteTimeout, c.stallLimit)
	c.in = c.out
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Load() || !s.admitLocked(c, exempt) {
		_ = nc.Close()
		over()
		return
	}
	c.member = s.crowd.Join(&c.phase)
	s.conns[c] = struct{}{}
	if s.timer == nil {
		s.timer = time.AfterFunc(watchInterval, s.watch)
	}
	s.wg.Go(func() {
		defer over()
		defer s.forget(c)
		c.serve()
	})
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.refuseWhy != "" {
		s.turning--
	}
	if delete(s.conns, c); len(s.conns) == 0 {
		s.timer.Stop()
		s.timer = nil
	}
}

// tune sets up a socket for bulk transfer.
func tune(nc net.Conn, peerTimeout time.Duration) {
	// Best effort, all of it: a socket with small buffers works, slowly.
	if b, ok := nc.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	}); ok {
		_ = b.SetReadBuffer(socketBuffer)
		_ = b.SetWriteBuffer(socketBuffer)
	}
	if t, ok := nc.(*net.TCPConn); ok {
		// The kernel probes an idle connection; on a busy one, sent data must be
		// acknowledged. Both fail after peerTimeout.
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{
			Enable: true, Idle: peerTimeout / 2, Interval: max(time.Second, peerTimeout/6), Count: 3,
		})
		if raw, err := t.SyscallConn(); err == nil {
			socket.SetUserTimeout(raw, peerTimeout)
		}
	}
}

// watch looks at all connections.
func (s *Server) watch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil {
		return // the last connection has just ended
	}
	for c := range s.conns {
		c.look()
	}
	s.shedLocked()
	s.timer.Reset(watchInterval)
}

// Shutdown stops accepting connections, lets the requests that were received be
// answered, and closes all connections. It returns when nothing of the server
// runs any more. When ctx is done before, it closes the connections as they
// are, and returns ctx's error; calls of the device that are still under way
// then end when they end.
func (s *Server) Shutdown(ctx context.Context) error {
	s.init()
	s.mu.Lock()
	s.stopping.Store(true)
	for l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.conns {
		c.wake()
	}
	s.mu.Unlock()

	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.abort(errStopped)
	}
	return ctx.Err()
}
