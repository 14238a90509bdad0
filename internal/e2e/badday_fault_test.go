package e2e

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/netem"
)

// trouble is something that happens to a host. What begins it returns what lifts
// it, or nil if it is over at once. Of two at a time, each is of another kind.
type trouble struct {
	kind, name string
	begin      func(*badDay) (lift func())
}

// troubles are all that the day has.
var troubles = []trouble{
	{"disk", "disk full", func(y *badDay) func() { return fillUp(y.t, y.disk) }},
	{"disk", "no inodes", func(y *badDay) func() { return fillNames(y.t, y.disk) }},
	{"store", "store silent", func(y *badDay) func() {
		y.store.net.Cut(true)
		return func() { y.store.net.Cut(false) }
	}},
	{"store", "store slow", func(y *badDay) func() {
		y.store.net.Delay(time.Duration(y.r.IntN(1500)) * time.Millisecond)
		return func() { y.store.net.Delay(0) }
	}},
	{"store", "store refuses connections", func(y *badDay) func() {
		y.store.net.Close()
		return y.store.listen
	}},
	{"store", "store breaks connections", func(y *badDay) func() {
		y.store.net.Reset()
		return nil
	}},
	{"store", "store answers 503", func(y *badDay) func() { return y.store.answers(busy, 1+y.r.IntN(3)) }},
	{"store", "proxy answers 502 in HTML", func(y *badDay) func() { return y.store.answers(gateway, 1+y.r.IntN(3)) }},
	{"store", "store's answers are torn", func(y *badDay) func() { return y.store.answers(torn, 1+y.r.IntN(3)) }},
	{"store", "store's server killed", func(y *badDay) func() {
		y.s3.Kill()
		return y.s3.Start
	}},
	{"store", "keys rotated", (*badDay).rotateKeys},
	{"daemon", "kill -9", func(y *badDay) func() { return y.restart(y.d.kill) }},
	{"daemon", "kill -9, and again while it starts", func(y *badDay) func() {
		return y.restart(func() {
			y.d.kill()
			y.d.killWhileStarting(y.r)
		})
	}},
	{"daemon", "SIGTERM", func(y *badDay) func() {
		y.stopped.Store(y.life.Load() + 2)
		return y.restart(y.d.stop)
	}},
	{"daemon", "SIGSTOP", func(y *badDay) func() {
		y.signal(syscall.SIGSTOP)
		return func() { y.signal(syscall.SIGCONT) }
	}},
	{"daemon", "signals", (*badDay).signals},
	{"files", "sockets removed", func(y *badDay) func() {
		return y.remove(y.d.nbd(), filepath.Join(y.d.sock, "api"))
	}},
	{"files", "lock file removed", func(y *badDay) func() { return y.remove(filepath.Join(y.d.data, "lock")) }},
	{"files", "host.json removed", func(y *badDay) func() { return y.remove(filepath.Join(y.d.data, "host.json")) }},
	{"clients", "guests vanish", func(y *badDay) func() {
		for _, g := range y.guests {
			g.vanish()
		}
		return nil
	}},
	{"clients", "clients say nothing", (*badDay).silentClients},
}

// restart ends the daemon, and starts it again.
func (y *badDay) restart(end func()) func() {
	y.life.Add(1) // odd: guests wait
	began := time.Now()
	end()
	ended := time.Now()
	y.d.start()
	y.life.Add(1)
	y.t.Logf("ended within %v, ready after %v", ended.Sub(began).Round(time.Millisecond), time.Since(ended).Round(time.Millisecond))
	return nil
}

func (y *badDay) signal(s syscall.Signal) {
	if err := y.d.proc.Signal(s); err != nil {
		y.t.Fatalf("%v: %v", s, err)
	}
}

// signals sends some of all but those that end the daemon or stop it, by themselves
// or by their meaning.
func (y *badDay) signals() func() {
	for range 12 {
		switch s := syscall.Signal(1 + y.r.IntN(64)); s {
		case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGSTOP, syscall.SIGTSTP:
			y.signal(syscall.SIGHUP)
		default:
			y.signal(s)
		}
	}
	return nil
}

func (y *badDay) remove(paths ...string) func() {
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) { // not yet made again
			y.t.Fatal(err)
		}
	}
	return nil
}

// silentClients connect, and leave it at that or stop in the middle of a handshake.
func (y *badDay) silentClients() func() {
	var all []net.Conn
	for i := range 40 { // half of them to the API
		at := []string{y.d.nbd(), filepath.Join(y.d.sock, "api")}[i%2]
		c, err := net.Dial("unix", at)
		if err != nil {
			continue // the sockets went away, too
		}
		_, _ = c.Write([]byte("GET /v1\x00\x00\x00\x01IHAVE")[:i/4])
		all = append(all, c)
	}
	return func() {
		for _, c := range all {
			_ = c.Close()
		}
	}
}

// rotateKeys changes the keys at the server and in the credentials file, one of
// them first.
func (y *badDay) rotateKeys() func() {
	y.keys++
	access, secret := fmt.Sprint("key", y.keys), fmt.Sprint("secret-number-", y.keys)
	server := func() {
		y.s3.Kill()
		y.s3.Rekey(access, secret)
		y.s3.Start()
	}
	inPlace := y.r.IntN(2) == 0
	file := func() { y.writeKeys(access, secret, inPlace) }
	if y.r.IntN(2) == 0 {
		file()
		return server
	}
	server()
	return file
}

func (y *badDay) writeKeys(access, secret string, inPlace bool) {
	at := y.credentials
	if !inPlace {
		at += ".new"
	}
	must(y.t, os.WriteFile(at, fmt.Appendf(nil, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", access, secret), 0o600))
	must(y.t, os.Rename(at, y.credentials))
}

// badStore is what stands between a daemon and an S3 server: a network, and a
// reverse proxy, either of which may be in trouble.
type badStore struct {
	t     *testing.T
	url   string
	net   *netem.Proxy
	front *httptest.Server

	how   atomic.Int32
	every atomic.Int64 // which of the requests meet it
	n     atomic.Int64
}

// What the proxy does instead of its work.
const (
	busy    = iota + 1 // 503 SlowDown, as S3 says it
	gateway            // 502, a page for people
	torn               // half of the answer, or none though the request was made
)

var errTorn = errors.New("torn by the test")

func newBadStore(t *testing.T, direct string) *badStore {
	t.Helper()
	u, err := url.Parse(direct)
	must(t, err)
	q := u.Query()
	server, err := url.Parse(q.Get("endpoint"))
	must(t, err)
	b := &badStore{t: t}
	silence := log.New(io.Discard, "", 0)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(server)
			r.Out.Host = r.In.Host // which is signed
		},
		Transport:      &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
		ErrorLog:       silence,
		ModifyResponse: b.tear,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, errTorn) {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	b.front = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { b.serve(proxy, w, r) }))
	b.front.Config.ErrorLog = silence
	b.front.Start()
	b.net, err = netem.Listen(b.front.Listener.Addr().String())
	must(t, err)
	t.Cleanup(func() {
		b.net.Close()
		b.front.CloseClientConnections()
		b.front.Close()
	})
	q.Set("endpoint", "http://"+b.net.Addr())
	u.RawQuery = q.Encode()
	b.url = u.String()
	return b
}

// answers has every so many-th request answered wrongly.
func (b *badStore) answers(how int32, every int) func() {
	b.every.Store(int64(every))
	b.how.Store(how)
	return func() { b.how.Store(0) }
}

func (b *badStore) serve(proxy http.Handler, w http.ResponseWriter, r *http.Request) {
	how := b.how.Load()
	if how != 0 && how != torn && b.n.Add(1)%b.every.Load() == 0 {
		_, _ = io.Copy(io.Discard, r.Body)
		if how == gateway {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, "<html><head><title>502 Bad Gateway</title></head>\n<body><h1>502</h1>\n</body></html>\n")
			return
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
		return
	}
	proxy.ServeHTTP(w, r)
}

// tear takes half of an answer away, or all of it.
func (b *badStore) tear(r *http.Response) error {
	if b.how.Load() != torn || b.n.Add(1)%b.every.Load() != 0 {
		return nil
	}
	if r.ContentLength < 2 {
		_ = r.Body.Close()
		return errTorn
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r.Body, r.ContentLength/2), tornReader{}), r.Body}
	return nil
}

type tornReader struct{}

func (tornReader) Read([]byte) (int, error) { return 0, errTorn }

// listen is there again, at the address of before.
func (b *badStore) listen() {
	at := b.net.Addr()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		p, err := netem.ListenAt(at, b.front.Listener.Addr().String())
		if err == nil {
			b.net = p
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("listen at %s again: %v", at, err)
		}
	}
}
