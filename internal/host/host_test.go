package host

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// bed is one store and the hosts on it.
type bed struct {
	t     *testing.T
	store objstore.Store
	count *objstore.Counter
	peers map[string]*Host
	// uptime is the clock of the hosts; nil: the machine's.
	uptime func() time.Duration
	cache  int64 // bytes of their SSD tiers; 0: 256 MiB
	bulk   int64 // their BulkBytes; 0: the default
	// retention is theirs; 0: the default
	retention time.Duration
	exchange  bool  // they exchange blocks
	move      int64 // their MoveBytes; 0: the default
	keys      []keys.Provider
}

func newBed(t *testing.T) *bed {
	c := &objstore.Counter{}
	b := &bed{t: t, count: c, store: objstore.Count(objstore.NewMem(objstore.Clock{}), c), peers: map[string]*Host{}}
	if tenantstest.Sealed() || strings.HasPrefix(t.Name(), "TestSealedSlice/") {
		b.keys = append(b.keys, tenantstest.Shared())
		tenantstest.Create(t, b.store, b.keys[0], "default")
	}
	return b
}

// logs is the store with the keys of its tenants: package commitlog reads sealed commits
// from it.
func (b *bed) logs() objstore.Store { return withKeys(b.store) }

func withKeys(store objstore.Store) objstore.Store {
	return tenantstest.New(store, tenantstest.Shared()).Keyed(store)
}

// logOf is what all keys of a volume's log begin with, whether its name is hidden or not.
func (b *bed) logOf(name string) string {
	b.t.Helper()
	n := must[disk.Name](b.t)(disk.ParseName(name, false))
	log := must[commitlog.Volume](b.t)(commitlog.LogOf(ctx, b.logs(), n.Log()))
	return "t/" + log.Tenant + "/volumes/" + log.Name + "/log/"
}

// domain is that of the tenant default: 8 hexadecimal digits.
func (b *bed) domain() string {
	if len(b.keys) == 0 {
		return "00000000"
	}
	return tenants.DomainText(must[tenants.Info](b.t)(tenantstest.New(b.store, tenantstest.Shared()).Show(ctx, "default")).Domain)
}

// Dial finds a host of the bed by its address.
func (b *bed) dial(addr, _ string) (Peer, error) {
	if h := b.peers[addr]; h != nil {
		return livePeer{h}, nil
	}
	return deadPeer{}, nil
}

// livePeer is a host that is reached over the network: its requests count as its own.
type livePeer struct{ h *Host }

func (p livePeer) Release(_ context.Context, name string, r api.ReleaseRequest) (api.Volume, error) {
	return p.h.Release(context.Background(), name, r)
}

func (p livePeer) Host(context.Context) (api.Host, error) { return p.h.Host(context.Background()) }

func (livePeer) Close() {}

func (p livePeer) Blocks(ctx context.Context, r api.BlocksRequest, got func(i int, raw []byte) error) error {
	return p.h.Blocks(ctx, r, func(i int, raw []byte) error { return got(i, bytes.Clone(raw)) })
}

type deadPeer struct{}

func (deadPeer) Close() {}

func (deadPeer) Blocks(context.Context, api.BlocksRequest, func(i int, raw []byte) error) error {
	return errs.New(errs.Unavailable, "nobody answers")
}

func (deadPeer) Host(context.Context) (api.Host, error) {
	return api.Host{}, errs.New(errs.Unavailable, "nobody answers")
}

func (deadPeer) Release(context.Context, string, api.ReleaseRequest) (api.Volume, error) {
	return api.Volume{}, errs.New(errs.Unavailable, "nobody answers")
}

// host opens a host on the data directory.
func (b *bed) host(dir, addr string) *Host {
	b.t.Helper()
	h, err := Open(context.Background(), Config{
		Data: dir, Store: b.store, Counter: b.count, Advertise: addr, Dial: b.dial, NBD: []string{"unix:/run/x.sock"},
		Cache: Share{Bytes: cmp.Or(b.cache, 256<<20)}, WALLimit: Share{Bytes: 256 << 20},
		Uptime: b.uptime, BulkBytes: b.bulk, Retention: b.retention, Peers: b.exchange, Keys: b.keys, MoveBytes: b.move,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	b.peers[addr] = h
	b.t.Cleanup(func() { _ = h.Close(context.Background()) })
	return h
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantKind(t *testing.T, err error, k errs.Kind) {
	t.Helper()
	if err == nil || errs.KindOf(err) != k {
		t.Fatalf("error %v, want one of kind %s", err, k)
	}
}

// vol returns the open volume with the name.
func vol(t *testing.T, h *Host, name string) *volume.Volume {
	t.Helper()
	d, err := h.disks.Local(name, true)
	if err != nil {
		t.Fatal(err)
	}
	d.Op.Lock()
	defer d.Op.Unlock()
	v, err := d.Wake(false)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func fill(t *testing.T, h *Host, name string, seed uint64, off, n uint64) []byte {
	t.Helper()
	b := random(seed, int(n))
	if err := vol(t, h, name).WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

func random(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func same(t *testing.T, h *Host, name string, off uint64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if err := vol(t, h, name).ReadAt(got, off); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s differs at byte %d", name, off+uint64(i))
			}
		}
	}
}

// bytesSource is an image in memory.
type bytesSource struct {
	b    []byte
	next int
}

func (s *bytesSource) Size() uint64 { return uint64(len(s.b)) }

func (s *bytesSource) Next() (api.Extent, error) {
	if s.next == len(s.b) {
		return api.Extent{}, io.EOF
	}
	n := min(100000, len(s.b)-s.next)
	e := api.Extent{Off: uint64(s.next), Data: s.b[s.next : s.next+n]}
	s.next += n
	return e, nil
}

const mib = 1 << 20

var ctx = context.Background()

func TestLifeOfALocalVolumeMakesNoRequest(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	h := b.host(dir, "a")
	before := b.count.Counts().Requests()
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 64 * mib}))
	data := fill(t, h, "v", 1, 5*mib+100, 3*mib)
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f", Count: 3}))
	over := fill(t, h, "f-2", 2, 6*mib, mib)
	must[api.Volume](t)(h.Sleep(ctx, "v", false, false))
	must[api.Volume](t)(h.Wake(ctx, "v", false, ""))
	same(t, h, "v", 5*mib+100, data)
	same(t, h, "f-2", 6*mib, over)
	same(t, h, "f-1", 5*mib+100, data)
	must[api.Snapshot](t)(h.Snapshot(ctx, "f-2", "s1", ""))
	fill(t, h, "f-2", 3, 6*mib, mib)
	same(t, h, "f-2@s1", 6*mib, over)
	must[api.Volume](t)(h.Rollback(ctx, "f-2", "s1", false))
	same(t, h, "f-2", 6*mib, over)
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h = b.host(dir, "a")
	same(t, h, "f-2", 6*mib, over)
	same(t, h, "f-2@s1", 6*mib, over)
	same(t, h, "f-3", 5*mib+100, data)
	for _, n := range []string{"v", "f-1", "f-2", "f-3"} {
		if err := h.Remove(ctx, n, false); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.count.Counts().Requests() - before; n != 0 {
		t.Fatalf("%d store requests", n)
	}
	if vs, err := h.List(ctx, false); err != nil || len(vs) != 0 {
		t.Fatalf("left over: %v, %v", vs, err)
	}
}

func TestFlushForkElsewhereAndBack(t *testing.T) {
	b := newBed(t)
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: 64 * mib}))
	data := fill(t, h1, "v", 1, 3*mib+12345, 7*mib)
	f := must[api.Flush](t)(h1.Flush(ctx, "v"))
	if f.Generation != "1.1" || f.BlocksNew < 56 {
		t.Fatalf("%+v", f)
	}
	same(t, h1, "v", 3*mib+12345, data)
	// One dirty block in an open session: pack and commit.
	patch := fill(t, h1, "v", 2, 4*mib, 4096)
	copy(data[4*mib-3*mib-12345:], patch)
	f = must[api.Flush](t)(h1.Flush(ctx, "v"))
	if f.Requests.Put != 2 || f.Generation != "1.2" {
		t.Fatalf("%+v", f)
	}
	// Not flushed by the owner: the fork makes the owner flush.
	patch = fill(t, h1, "v", 3, 5*mib, 4096)
	copy(data[5*mib-3*mib-12345:], patch)
	if len(b.keys) > 0 {
		b.costing(t, "the keys of a sealed tenant, once a process", 3, func() {
			if err := h2.disks.Tenants.Ready(ctx, "default"); err != nil {
				t.Fatal(err)
			}
		})
	}
	fs := must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: "v", Name: "w"}))
	if r := fs[0].Requests; r.Put+r.Get+r.List+r.Head+r.Delete > 6 {
		t.Fatalf("%+v", fs[0])
	}
	same(t, h2, "w", 3*mib+12345, data)
	fill(t, h2, "w", 9, 0, mib)
	same(t, h1, "v", 3*mib+12345, data)
	// Move: h2 wakes v, and h1 releases it.
	must[api.Volume](t)(h2.Wake(ctx, "v", false, ""))
	same(t, h2, "v", 3*mib+12345, data)
	if _, err := h1.Flush(ctx, "v"); errs.KindOf(err) != errs.NotFound {
		t.Fatal(err)
	}
	must[api.Diff](t)(h2.Diff(ctx, "v", "w"))
	must[api.Usage](t)(h2.Usage(ctx, ""))
	must[api.Verify](t)(h2.Verify(ctx, "v", true))
	must[[]api.Commit](t)(h2.Log(ctx, "v", "", 0))
	must[api.Volume](t)(h2.Rename(ctx, "v", "vv"))
	same(t, h2, "vv", 3*mib+12345, data)
	must[api.Flush](t)(h2.Flush(ctx, "vv"))
	_, err := h1.Wake(ctx, "v", false, "")
	wantKind(t, err, errs.NotFound)
}

func TestDeadOwnerNeedsForceAndIsFenced(t *testing.T) {
	b := newBed(t)
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: "v", Size: 64 * mib}))
	data := fill(t, h1, "v", 1, 0, mib)
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	delete(b.peers, "a")
	_, err := h2.Wake(ctx, "v", false, "")
	wantKind(t, err, errs.WouldLose)
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	same(t, h2, "v", 0, data)
	fill(t, h1, "v", 2, 0, mib)
	held := vol(t, h1, "v")
	_, err = h1.Flush(ctx, "v")
	wantKind(t, err, errs.Fenced)
	if v := must[api.Volume](t)(h1.Show(ctx, "v")); v.State != "fenced" {
		t.Fatalf("%+v", v)
	}
	if err := held.WriteAt([]byte{1}, 0); errs.KindOf(err) != errs.Fenced {
		t.Fatal(err)
	}
	same(t, h2, "v", 0, data)
}

func vol2(h *Host, name string) *volume.Volume {
	d, _ := h.disks.Local(name, true)
	return d.Volume()
}

func TestImport(t *testing.T) {
	b := newBed(t)
	h := b.host(t.TempDir(), "a")
	img := append(random(5, 9*mib), make([]byte, 20*mib)...)
	copy(img[25*mib:], random(6, 100))
	r := must[api.Import](t)(h.Import(ctx, "img", 0, &bytesSource{b: img}))
	if r.BlocksNew != 73 {
		t.Fatalf("%+v", r)
	}
	same(t, h, "img", 0, img)
	r = must[api.Import](t)(h.Import(ctx, "img", 0, &bytesSource{b: img}))
	if !r.Unchanged {
		t.Fatalf("%+v", r)
	}
	r = must[api.Import](t)(h.Import(ctx, "img2", 0, &bytesSource{b: img}))
	if r.BlocksNew != 0 || r.BlocksFolded != 73 {
		t.Fatalf("%+v", r)
	}
	img[0] ^= 1
	_, err := h.Import(ctx, "img", 0, &bytesSource{b: img})
	wantKind(t, err, errs.Exists)
	img[0] ^= 1
	cfg := Config{Store: b.store, Keys: b.keys}
	must[api.Import](t)(ImportToStore(ctx, cfg, "offline", 40*mib, &bytesSource{b: img}))
	r = must[api.Import](t)(ImportToStore(ctx, cfg, "offline", 40*mib, &bytesSource{b: img}))
	if !r.Unchanged {
		t.Fatalf("%+v", r)
	}
	must[api.Volume](t)(h.Wake(ctx, "offline", false, ""))
	same(t, h, "offline", 0, img)
	vs := must[[]api.Volume](t)(h.List(ctx, true))
	if len(vs) != 3 {
		t.Fatalf("%+v", vs)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	b.host(dir, "a")
	_, err := Open(ctx, Config{Data: dir, Store: b.store})
	wantKind(t, err, errs.Busy)
}

func TestRestartBeginsANewEpoch(t *testing.T) {
	b := newBed(t)
	dir := t.TempDir()
	h := b.host(dir, "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 64 * mib}))
	fill(t, h, "v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
	fill(t, h, "v", 2, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h = b.host(dir, "a")
	data := fill(t, h, "v", 3, mib, mib)
	f := must[api.Flush](t)(h.Flush(ctx, "v"))
	if f.Generation != "2.2" {
		t.Fatalf("%+v", f)
	}
	same(t, h, "v", mib, data)
	_, err := h.Fork(ctx, api.ForkRequest{Source: "v", Name: "old", At: "1.1"})
	if err != nil {
		t.Fatal(err)
	}
	same(t, h, "old", 0, random(1, mib))
	_, err = h.Fork(ctx, api.ForkRequest{Source: "v", Name: "old2", At: "9999h"})
	wantKind(t, err, errs.NotFound)
	if errors.Is(err, errs.Internal) {
		t.Fatal(err)
	}
	if d := time.Since(h.disks.Now()); d > time.Hour {
		t.Fatal(d)
	}
}

// A published volume with ongoing writes checks for a seal now and then, and is fenced
// without waiting for its next flush. A volume that only this host knows never checks.
func TestWritesLookForASeal(t *testing.T) {
	b := newBed(t)
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	for _, n := range []string{"v", "w"} {
		must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: n, Size: 64 * mib}))
	}
	must[api.Flush](t)(h1.Flush(ctx, "v"))
	delete(b.peers, "a")
	must[api.Volume](t)(h2.Wake(ctx, "v", true, ""))
	before := b.count.Counts().Requests()
	write := func(name string) {
		e, err := h1.exports.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Closed()
		d, _ := h1.disks.Local(name, false)
		if d.NextSealCheck.Load() != 0 {
			d.NextSealCheck.Store(1) // it is due
		}
		frame := random(1, 4096+28)
		_ = e.Device.WriteFrames([]uint64{0}, [][]byte{frame})
		e.Observe(nbd.OpWrite, 4096, time.Millisecond)
	}
	write("w")
	if n := b.count.Counts().Requests() - before; n != 0 {
		t.Fatalf("%d requests for a local volume", n)
	}
	write("v")
	for range 500 {
		if must[api.Volume](t)(h1.Show(ctx, "v")).State == "fenced" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the volume was not fenced")
}
