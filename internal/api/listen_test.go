package api_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/api/apitest"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/listener"
)

const patience = 10 * time.Second

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// vanish makes the host of a client's socket look as if it had lost its power.
func vanish(t *testing.T, nc net.Conn) {
	t.Helper()
	raw, err := nc.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop[0]})
	})
	if cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
}

// logs keeps what is logged.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), s)
}

// daemon serves the API, with requests counted, until the end of the test.
type daemon struct {
	*listener.Listener
	busy atomic.Int64 // requests under way
}

func serveAt(t *testing.T, network, address string, o listener.Options, ho api.Options, b api.Backend) *daemon {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Listener: listener.Listen(l, o)}
	h := api.Handler(b, ho)
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d.busy.Add(1)
			defer d.busy.Add(-1)
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 2 * time.Second, IdleTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(d) })
	t.Cleanup(func() { _ = s.Close(); wg.Wait() })
	return d
}

func (d *daemon) dial(t *testing.T, request string) net.Conn {
	t.Helper()
	nc, err := net.Dial(d.Addr().Network(), d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(4 * patience))
	if _, err := io.WriteString(nc, request); err != nil {
		t.Fatal(err)
	}
	return nc
}

func (d *daemon) conns() int { n, _, _ := d.Counts(); return n }

const (
	putImage = "PUT /v1/volumes/v/image?size=1048576 HTTP/1.1\r\nHost: glide\r\nContent-Type: application/vnd.glide.image\r\nTransfer-Encoding: chunked\r\n\r\n"
	getImage = "GET /v1/volumes/big/image HTTP/1.1\r\nHost: glide\r\n\r\n"
	getHost  = "GET /v1/host HTTP/1.1\r\nHost: glide\r\n\r\n"
)

// withImage is a backend with a volume of 64 MiB of data.
func withImage(t *testing.T) api.Backend {
	t.Helper()
	b := &apitest.Backend{}
	if _, err := b.Import(t.Context(), "big", 64<<20, apitest.Full(64<<20)); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestClientsThatStop: a client that vanished, or stands still, in any state is
// given up, and its request ends.
func TestClientsThatStop(t *testing.T) {
	b := withImage(t)
	tcp := func(t *testing.T, o api.Options) *daemon {
		return serveAt(t, "tcp", "127.0.0.1:0", listener.Options{PeerTimeout: 2 * time.Second}, o, b)
	}
	long := api.Options{StallTimeout: time.Hour}
	for name, c := range map[string]struct {
		request string
		o       api.Options
		vanish  bool
	}{
		"vanished before its request":       {"", long, true},
		"vanished in its header":            {"GET /v1/host HTT", long, true},
		"vanished after its answer":         {getHost, long, true},
		"vanished in the body of an import": {putImage + "10\r\n0123", long, true},
		"vanished during an export":         {getImage, long, true},
		"still in its header":               {"GET /v1/host HTT", long, false},
		"still in the body of an import":    {putImage + "10\r\n0123", api.Options{StallTimeout: time.Second}, false},
		"still in a body of JSON":           {"POST /v1/volumes HTTP/1.1\r\nHost: glide\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{", api.Options{StallTimeout: time.Second}, false},
		"still in a body that nobody reads": {strings.Replace(putImage, "vnd.glide", "none", 1) + "10\r\n0123", api.Options{StallTimeout: time.Second}, false},
		"still during an export":            {getImage, api.Options{StallTimeout: time.Second}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := tcp(t, c.o)
			nc := d.dial(t, c.request)
			switch {
			case strings.Contains(c.request, "vnd.glide") || c.request == getImage:
				eventually(t, "the request is under way", func() bool { return d.busy.Load() == 1 })
				time.Sleep(100 * time.Millisecond) // until the sockets are full
			case c.request == getHost:
				if _, err := nc.Read(make([]byte, 4096)); err != nil {
					t.Fatal(err)
				}
			default:
				eventually(t, "it is connected", func() bool { return d.conns() == 1 })
			}
			if c.vanish {
				vanish(t, nc)
			}
			eventually(t, "it is given up", func() bool { return d.busy.Load() == 0 && d.conns() == 0 })
		})
	}
}

// TestSlowButAlive: what takes longer than a stall may, and never stalls, is not
// given up: an answer that is read slowly, an import whose source is slow, and a
// request that takes its time.
func TestSlowButAlive(t *testing.T) {
	t.Parallel()
	b := withImage(t)
	d := serveAt(t, "tcp", "127.0.0.1:0", listener.Options{}, api.Options{StallTimeout: 400 * time.Millisecond}, b)
	nc := d.dial(t, getImage)
	n := 0
	for buf := make([]byte, 4<<20); n < 64<<20; {
		m, err := nc.Read(buf)
		if n += m; err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		time.Sleep(time.Duration(m) * 1200 * time.Millisecond / (64 << 20))
	}
	nc = d.dial(t, putImage)
	wait := "c\r\n\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\xff\xff\r\n"
	for range 8 {
		time.Sleep(100 * time.Millisecond)
		if _, err := io.WriteString(nc, wait); err != nil {
			t.Fatal(err)
		}
	}
	if d.busy.Load() == 0 {
		t.Error("an import whose client says that it waits was given up")
	}
	_ = nc.Close()
	eventually(t, "the import is over", func() bool { return d.busy.Load() == 0 })
}

// TestTooManyClients: one more than there may be is told so in a way that a client
// shows, at once; another address has its own limit.
func TestTooManyClients(t *testing.T) {
	t.Parallel()
	var log logs
	b := &apitest.Backend{}
	dir, err := os.MkdirTemp("", "glide")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	full := serveAt(t, "tcp", "127.0.0.1:0", listener.Options{MaxConns: 2, Log: slog.New(slog.NewTextHandler(&log, nil))}, api.Options{}, b)
	operators := serveAt(t, "unix", dir+"/s", listener.Options{MaxConns: 2}, api.Options{}, b)
	held := []net.Conn{full.dial(t, ""), full.dial(t, "")}
	eventually(t, "it is full", func() bool { return full.conns() == 2 })
	c, err := client.New("tcp:"+full.Addr().String(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if _, err := c.Host(t.Context()); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "too many connections to the API at tcp:") {
			t.Errorf("one too many: %v", err)
		}
	}
	op, err := client.New("unix:"+operators.Addr().String(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer op.Close()
	if _, err := op.Host(t.Context()); err != nil {
		t.Errorf("the operator: %v", err)
	}
	if n := log.count("are refused"); n != 1 {
		t.Errorf("the log has it %d times", n)
	}
	if _, limit, refused := full.Counts(); limit != 2 || refused != 3 {
		t.Errorf("limit %d, %d refused", limit, refused)
	}
	_ = held[0].Close()
	eventually(t, "there is room again", func() bool { _, err := c.Host(t.Context()); return err == nil })
}

// troubled is a listener that fails in ways that pass, and then for good.
type troubled struct {
	net.Listener
	errs []error
}

func (l *troubled) Accept() (net.Conn, error) {
	if len(l.errs) == 0 {
		return nil, net.ErrClosed
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, &net.OpError{Op: "accept", Err: err}
}

// TestAcceptFails: what passes is waited for, and is in the log once.
func TestAcceptFails(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	bad := &troubled{Listener: l}
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EPERM, syscall.ECONNABORTED, syscall.EMFILE} {
		bad.errs = append(bad.errs, os.NewSyscallError("accept4", e))
	}
	var log logs
	began := time.Now()
	_, err = listener.Listen(bad, listener.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}).Accept()
	if !errors.Is(err, net.ErrClosed) || len(bad.errs) != 0 {
		t.Errorf("%v, %d left", err, len(bad.errs))
	}
	if took := time.Since(began); took < 400*time.Millisecond || took > patience {
		t.Errorf("seven failures took %v", took)
	}
	if n := log.count("cannot be accepted"); n != 1 {
		t.Errorf("the log has it %d times", n)
	}
}
