package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/api/apitest"
	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/errs"
)

// serve runs the API over a backend in memory on a unix socket.
func serve(t testing.TB, o api.Options) (*apitest.Backend, string) {
	t.Helper()
	b := &apitest.Backend{}
	return b, serveHandler(t, api.Handler(b, o))
}

func serveHandler(t testing.TB, h http.Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return "unix:" + path
}

func dial(t testing.TB, addr string, o Options) *Client {
	t.Helper()
	c, err := New(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestVerbs calls every verb once.
func TestVerbs(t *testing.T) {
	b, addr := serve(t, api.Options{})
	c := dial(t, addr, Options{})
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	v, err := c.Create(ctx, CreateRequest{Name: "acme/vm1", Size: 1 << 20, BlockSize: 4096})
	check("create", err)
	if v.Name != "acme/vm1" || v.BlockSize != 4096 || !v.CreatedAt.Equal(apitest.Epoch) {
		t.Errorf("created %+v", v)
	}
	list, err := c.List(ctx, true)
	check("list", err)
	if len(list) != 1 || list[0].ID != v.ID {
		t.Errorf("listed %+v", list)
	}
	v, err = c.Resize(ctx, "acme/vm1", 2<<20)
	check("resize", err)
	v2, err := c.Show(ctx, "acme/vm1")
	check("show", err)
	if v.Size != 2<<20 || v2.Size != v.Size {
		t.Errorf("resized to %d, then %d", v.Size, v2.Size)
	}
	_, err = c.Set(ctx, "acme/vm1", Settings{"label.app": "web"})
	check("set", err)
	_, err = c.Snapshot(ctx, "acme/vm1", "before", "")
	check("snapshot", err)
	snaps, err := c.Snapshots(ctx, "acme/vm1")
	check("snapshots", err)
	if len(snaps) != 1 || snaps[0].Name != "before" || snaps[0].Volume != "acme/vm1" {
		t.Errorf("snapshots %+v", snaps)
	}
	forks, err := c.Fork(ctx, ForkRequest{Source: "acme/vm1@before", Name: "f", Count: 2})
	check("fork", err)
	if len(forks) != 2 || forks[1].Name != "f-2" {
		t.Errorf("forks %+v", forks)
	}
	_, err = c.Rename(ctx, "f-2", "g")
	check("rename", err)
	_, err = c.Rollback(ctx, "acme/vm1", "before", true)
	check("rollback", err)
	f, err := c.Flush(ctx, "acme/vm1")
	check("flush", err)
	if f.Generation != "1.2" || f.Requests.Put != 2 {
		t.Errorf("flush %+v", f)
	}
	v, err = c.Sleep(ctx, "acme/vm1", true, false)
	check("sleep", err)
	if v.State != "asleep" {
		t.Errorf("state %s", v.State)
	}
	_, err = c.Wake(ctx, "acme/vm1", false, "1.2")
	check("wake", err)
	err = c.Log(ctx, "acme/vm1", 0, func([]Commit) error { return nil })
	check("log", err)
	_, err = c.Diff(ctx, "acme/vm1", "g")
	check("diff", err)
	_, err = c.Cost(ctx, "")
	check("cost", err)
	_, err = c.Cost(ctx, "acme/vm1")
	check("cost", err)
	_, err = c.Usage(ctx, "")
	check("usage", err)
	_, err = c.Usage(ctx, "acme/vm1")
	check("usage", err)
	_, err = c.Verify(ctx, "acme/vm1", true)
	check("verify", err)
	_, err = c.Hydrate(ctx, "acme/vm1", 1<<20)
	check("hydrate", err)
	uri, err := c.URI(ctx, "acme/vm1@before")
	check("uri", err)
	if uri != "nbd+unix:///acme/vm1@before?socket=/data/nbd.sock" {
		t.Errorf("uri %s", uri)
	}
	st, err := c.Stats(ctx, "")
	check("stats", err)
	if st.Latency["read"].P99 != 50 || st.Cache.Hits != 7 {
		t.Errorf("stats %+v", st)
	}
	_, err = c.Stats(ctx, "acme/vm1")
	check("stats", err)
	_, err = c.Doctor(ctx)
	check("doctor", err)
	_, err = c.Host(ctx)
	check("host", err)
	_, err = c.Health(ctx)
	check("health", err)
	d, err := c.Dump(ctx, "packs/good/1-2")
	check("dump", err)
	if d.Text != "pack: 1 slot\n" || d.Damage != "" || d.Key != "packs/good/1-2" {
		t.Errorf("dump %+v", d)
	}
	d, err = c.Dump(ctx, "packs/bad")
	check("dump", err)
	if d.Text == "" || d.Damage == "" {
		t.Errorf("dump %+v", d)
	}
	at, err := c.Attach(ctx, "acme/vm1", AttachRequest{Device: "/dev/nbd3"})
	check("attach", err)
	if at.Name != "acme/vm1" || at.Device != "/dev/nbd3" {
		t.Errorf("attached %+v", at)
	}
	_, err = c.Detach(ctx, DetachRequest{Device: "/dev/nbd3"})
	check("detach", err)
	_, err = c.Release(ctx, "acme/vm1", ReleaseRequest{Host: "host-2", Epoch: 1, WithinMs: 5000})
	check("release", err)
	check("remove", c.Remove(ctx, "acme/vm1@before", true))
	check("remove", c.Remove(ctx, "g", false))
	gone, err := c.Removed(ctx)
	check("removed", err)
	if len(gone) != 1 || gone[0].Name != "g" || gone[0].Until.IsZero() {
		t.Errorf("removed %+v", gone)
	}
	v, err = c.Restore(ctx, "g", "h")
	check("restore", err)
	if v.Name != "h" {
		t.Errorf("restored %+v", v)
	}
	for _, call := range []string{"Create acme/vm1 1048576 4096  0", "List true", "Rollback acme/vm1 before true", "Sleep acme/vm1 true false",
		"Wake acme/vm1 false 1.2", "Verify acme/vm1 true", "Hydrate acme/vm1 1048576", "Release acme/vm1 host-2 1 false", "Remove acme/vm1@before true", "Remove g false"} {
		if !strings.Contains(strings.Join(b.Calls(), "\n")+"\n", call+"\n") {
			t.Errorf("no call %q among\n%s", call, strings.Join(b.Calls(), "\n"))
		}
	}
}

// TestKinds: every kind of error arrives as what it was.
func TestKinds(t *testing.T) {
	b, addr := serve(t, api.Options{})
	c := dial(t, addr, Options{})
	for k := errs.Kind(0); !strings.HasPrefix(k.String(), "kind("); k++ {
		b.Fail("Show", errs.New(k, "it failed <so> & \"so\""))
		_, err := c.Show(t.Context(), "vm1")
		if !errors.Is(err, k) || err.Error() != "it failed <so> & \"so\"" || KindOf(err).ExitCode() != k.ExitCode() {
			t.Errorf("%s arrived as %v of kind %s", k, err, KindOf(err))
		}
	}
	for _, name := range []string{"", ".", "..", "a b", "a\nb", "a?b", "a#b", "%", "ä"} {
		_, err := c.Show(t.Context(), name)
		if err == nil || strings.Contains(err.Error(), "not a glide daemon") {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestToken(t *testing.T) {
	_, addr := serve(t, api.Options{Authenticate: func(r *http.Request) (*auth.Principal, int, error) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			return nil, http.StatusUnauthorized, errs.New(errs.Invalid, "this is not the token")
		}
		return auth.Owner(), 0, nil
	}})
	if _, err := dial(t, addr, Options{}).Host(t.Context()); !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "token") {
		t.Errorf("without a token: %v", err)
	}
	if _, err := dial(t, addr, Options{Token: "secret"}).Host(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNobodyThere(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	for _, addr := range []string{"unix:" + filepath.Join(dir, "none.sock"), "unix:" + stale, "tcp:127.0.0.1:1"} {
		_, err := dial(t, addr, Options{}).Host(t.Context())
		want := "glide serve is not running at " + addr
		if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if _, err := New("unix:/"+strings.Repeat("x", 200), Options{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a long path: %v", err)
	}
}

func TestSomebodyElse(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"text":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") },
		"error": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "nope", http.StatusTeapot) },
		"moved": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) },
		"gone":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		_, err := dial(t, serveHandler(t, h), Options{}).Host(t.Context())
		if !errors.Is(err, errs.Unavailable) || strings.HasSuffix(err.Error(), "EOF") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// disk is a source of size bytes, of which every page at a multiple of 1 MiB has data.
type disk struct {
	size, pos uint64
	failAt    uint64
	err       error
}

func (d *disk) Size() uint64 { return d.size }

func (d *disk) Next() (Extent, error) {
	if d.err != nil && d.pos >= d.failAt {
		return Extent{}, d.err
	}
	if d.pos >= d.size {
		return Extent{}, io.EOF
	}
	e := Extent{Off: d.pos, Data: bytes.Repeat([]byte{byte(d.pos>>20) + 1}, 4096)}
	d.pos += 1 << 20
	return e, nil
}

func TestImportExport(t *testing.T) {
	b, addr := serve(t, api.Options{})
	c := dial(t, addr, Options{})
	const size = 64 << 20
	for i, unchanged := range []bool{false, true} {
		out, err := c.Import(t.Context(), "vm1", size, &disk{size: size})
		if err != nil || out.Unchanged != unchanged || out.BytesRead != 64*4096 {
			t.Fatalf("import %d: %+v, %v", i, out, err)
		}
	}
	x, err := c.Export(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	want := &disk{size: size}
	for {
		e, err := x.Next()
		w, werr := want.Next()
		if err == io.EOF && werr == io.EOF {
			break
		}
		if err != nil || werr != nil || e.Off != w.Off || !bytes.Equal(e.Data, w.Data) {
			t.Fatalf("extent at %d, %v; want %d, %v", e.Off, err, w.Off, werr)
		}
	}
	// A read that fails on the way arrives as what it is.
	b.Fail("ReadAt", errs.New(errs.Corrupt, "packs/00/00: slot 3 is damaged"))
	x, err = c.Export(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	for err == nil {
		_, err = x.Next()
	}
	if !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "slot 3") {
		t.Errorf("a failed export: %v", err)
	}
}

// TestImportRefused: the daemon's reason arrives however much is still to be sent.
func TestImportRefused(t *testing.T) {
	b, addr := serve(t, api.Options{})
	c := dial(t, addr, Options{})
	b.Fail("Import", errs.New(errs.NoSpace, "the disk is full"))
	for range 20 {
		if _, err := c.Import(t.Context(), "vm1", 1<<40, &disk{size: 1 << 40}); !errors.Is(err, errs.NoSpace) {
			t.Fatalf("refused at once: %v", err)
		}
	}
	late := dial(t, serveHandler(t, api.Handler(&lateRefusal{Backend: b}, api.Options{})), Options{})
	for range 20 {
		if _, err := late.Import(t.Context(), "vm1", 1<<40, &disk{size: 1 << 40}); !errors.Is(err, errs.NoSpace) {
			t.Fatalf("refused on the way: %v", err)
		}
	}
}

// lateRefusal reads some of an image before it refuses it.
type lateRefusal struct{ *apitest.Backend }

func (l *lateRefusal) Import(ctx context.Context, name string, size uint64, src api.Source) (api.Import, error) {
	for range 300 {
		if _, err := src.Next(); err != nil {
			return api.Import{}, err
		}
	}
	return l.Backend.Import(ctx, name, size, src)
}

// TestImportFails: an image that cannot be read is nobody's volume, and its
// error is what the caller gets.
func TestImportFails(t *testing.T) {
	b, addr := serve(t, api.Options{})
	c := dial(t, addr, Options{})
	cause := errs.New(errs.Corrupt, "the image is truncated")
	for _, at := range []uint64{0, 1 << 20, 60 << 20} {
		_, err := c.Import(t.Context(), "vm1", 64<<20, &disk{size: 64 << 20, failAt: at, err: cause})
		if !errors.Is(err, errs.Corrupt) || err.Error() != cause.Error() {
			t.Errorf("failing at %d: %v", at, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Import(ctx, "vm1", 64<<20, &cancels{disk{size: 64 << 20}, cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := b.Show(t.Context(), "vm1"); !errors.Is(err, errs.NotFound) {
		t.Errorf("half an image was imported: %v", err)
	}
}

type cancels struct {
	disk
	cancel func()
}

func (c *cancels) Next() (Extent, error) {
	if c.pos == 5<<20 {
		c.cancel()
	}
	return c.disk.Next()
}

// TestDaemonDies: a connection that ends in the middle of an export is no end of it.
func TestDaemonDies(t *testing.T) {
	addr := serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", api.ImageType)
		w.Header().Set(api.SizeHeader, "1048576")
		_, _ = w.Write(make([]byte, 12)) // the begin of an end mark
	}))
	x, err := dial(t, addr, Options{}).Export(t.Context(), "vm1")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = x.Close() }()
	if _, err := x.Next(); !errors.Is(err, errs.Corrupt) {
		t.Errorf("error: %v", err)
	}
}

func BenchmarkImport(b *testing.B) {
	c := dial(b, serveHandler(b, api.Handler(&discards{}, api.Options{})), Options{})
	b.SetBytes(64 << 20)
	for b.Loop() {
		if _, err := c.Import(b.Context(), "vm1", 64<<20, &full{}); err != nil {
			b.Fatal(err)
		}
	}
}

// discards reads images and keeps nothing.
type discards struct{ api.Backend }

func (d *discards) Import(_ context.Context, _ string, _ uint64, src api.Source) (api.Import, error) {
	for {
		if _, err := src.Next(); err == io.EOF {
			return api.Import{}, nil
		} else if err != nil {
			return api.Import{}, err
		}
	}
}

var mega = make([]byte, 1<<20)

type full struct{ pos uint64 }

func (*full) Size() uint64 { return 64 << 20 }

func (f *full) Next() (Extent, error) {
	if f.pos == 64<<20 {
		return Extent{}, io.EOF
	}
	f.pos += 1 << 20
	return Extent{Off: f.pos - 1<<20, Data: mega}, nil
}

// TestProgress: who asks hears how far the daemon is, before the answer; the
// answer is the same.
func TestProgress(t *testing.T) {
	_, addr := serve(t, api.Options{})
	c := dial(t, addr, Options{})
	if _, err := c.Create(t.Context(), CreateRequest{Name: "v", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	var got []uint64
	ctx := WithProgress(t.Context(), func(done, total uint64) {
		if total != 3<<20 || done > total {
			t.Errorf("%d of %d", done, total)
		}
		got = append(got, done>>20)
	})
	f, err := c.Flush(ctx, "v")
	if err != nil || f.Generation != "1.2" {
		t.Fatalf("%+v, %v", f, err)
	}
	if !slices.Equal(got, []uint64{0, 1, 2}) {
		t.Errorf("the reports were %v", got)
	}
	if _, err := c.Flush(ctx, "nothing"); !errors.Is(err, errs.NotFound) {
		t.Error(err)
	}
}

// TestLateRelease: a daemon that hangs for longer than the asker waits does not
// find the request afterwards; one that answers in time learns what is left.
func TestLateRelease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := New("unix:"+path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.Release(ctx, "v", ReleaseRequest{Host: "b", Epoch: 1, WithinMs: 5000}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	c.Close()
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(nc) // what waited there
	if !bytes.Contains(b, []byte("/v1/volumes/v/release")) || bytes.Contains(b, []byte("epoch")) {
		t.Errorf("this had been sent:\n%s", b)
	}

	left := make(chan float64, 1)
	addr := serveHandler(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		time.Sleep(50 * time.Millisecond)
		var in ReleaseRequest
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		left <- in.WithinMs
	}))
	if c, err = New(addr, Options{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, _ = c.Release(ctx, "v", ReleaseRequest{Host: "b", Epoch: 1, WithinMs: 5000})
	if ms := <-left; ms <= 0 || ms > 4950 {
		t.Errorf("%v ms of 5000 are said to be left, 50 later", ms)
	}
}
