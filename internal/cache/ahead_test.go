package cache

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/readahead"
)

// held is a store whose reads wait until the test lets them go.
type held struct {
	objstore.Store
	mu    sync.Mutex
	bytes int64 // of reads that wait
	most  int64
	free  chan struct{}
}

func (h *held) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	h.mu.Lock()
	h.bytes += n
	h.most = max(h.most, h.bytes)
	h.mu.Unlock()
	<-h.free
	h.mu.Lock()
	h.bytes -= n
	h.mu.Unlock()
	return h.Store.GetRange(ctx, key, off, n)
}

func (h *held) waiting() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bytes
}

// until waits for something that other goroutines do.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("not within 5 s: %s", what)
}

// TestAhead: the window comes, the first block of it is marked, and each byte is counted
// once.
func TestAhead(t *testing.T) {
	s := newStock(t, 40)
	now := time.Duration(0)
	c, err := Open(Options{FS: vfs.NewMem(), Memory: 0, Disk: 1 << 30, Local: local, Store: s.store, Uptime: func() time.Duration { return now }})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Domain("t", s.hasher, nil)
	var credit readahead.Credit
	d.Ahead(s.refs[:20], size, 6, &credit)
	have := func(from, to int) bool {
		return !slices.ContainsFunc(s.refs[from:to], func(r pack.Ref) bool { return !d.Has(&r.Hash, size) })
	}
	until(t, "the window is here", func() bool { return have(0, 6) })
	if d.Has(&s.refs[6].Hash, size) {
		t.Error("more than the window came")
	}
	ahead := &c.Stats.Ahead
	if n := ahead.Fetched.Load(); n < 6*size || n > 6*size+1000 {
		t.Errorf("%d bytes fetched", n)
	}
	for i, want := range []int{12, 0, 0} {
		if got := d.Touch(&s.refs[i].Hash); got != want {
			t.Errorf("block %d asks for %d blocks, not %d", i, got, want)
		}
	}
	if got := d.Touch(&s.refs[0].Hash); got != 0 {
		t.Errorf("a block that was read again asks for %d blocks", got)
	}
	now = 2 * time.Minute
	c.Expire()
	f, u, w := ahead.Fetched.Load(), ahead.Used.Load(), ahead.Wasted.Load()
	if u < 3*size || u > 3*size+1000 || u+w != f {
		t.Errorf("%d bytes fetched, %d used, %d wasted", f, u, w)
	}
	if c.ahead.unread.Load() != 0 || len(c.ahead.blocks) != 0 || c.ahead.order != nil {
		t.Error("something is kept of blocks that came long ago")
	}
	if n := testing.AllocsPerRun(100, func() { d.Touch(&s.refs[1].Hash) }); n != 0 {
		t.Errorf("Touch allocates %v times", n)
	}
}

// TestAheadStopsWithoutUse: a guest that reads nothing of what came gets no more.
func TestAheadStopsWithoutUse(t *testing.T) {
	s := newStock(t, 200)
	_, d := s.open(t, vfs.NewMem(), 0, 1<<30)
	var credit readahead.Credit
	for i := range 20 {
		d.Ahead(s.refs[10*i:][:10], size, 8, &credit)
	}
	n := 0
	until(t, "what is under way is here", func() bool {
		n = 0
		for i := range s.refs {
			if d.Has(&s.refs[i].Hash, size) {
				n++
			}
		}
		return n >= 8
	})
	time.Sleep(20 * time.Millisecond)
	if n > 8 {
		t.Errorf("%d blocks came for nothing", n)
	}
}

// TestAheadBounds: what is in flight ahead of need stays within its budget, a list leaves
// room for more urgent things, and yields to a guest that waits.
func TestAheadBounds(t *testing.T) {
	s := newStock(t, 400)
	h := &held{Store: s.store, free: make(chan struct{})}
	c, err := Open(Options{FS: vfs.NewMem(), Disk: 1 << 30, Local: local, Store: h})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Domain("t", s.hasher, nil)
	ctx, cancel := context.WithCancel(t.Context())
	followed := make(chan bool)
	go func() {
		d.Follow(ctx, slices.Values(s.refs[:300]), size)
		close(followed)
	}()
	until(t, "the list takes its share", func() bool { return h.waiting() > followBytes-maxAhead })
	if n := h.waiting(); n > followBytes {
		t.Errorf("%d bytes of a list in flight, at most %d are right", n, followBytes)
	}
	// A miss still gets neighbours, up to the whole budget.
	for i := range 20 {
		var credit readahead.Credit
		d.Ahead(s.refs[300+i*5:][:5], size, 5, &credit)
	}
	until(t, "neighbours are fetched", func() bool { return h.waiting() > followBytes })
	time.Sleep(20 * time.Millisecond)
	if n := h.waiting(); n > aheadBytes {
		t.Errorf("%d bytes in flight ahead of need, at most %d are right", n, aheadBytes)
	}
	// A guest waits: the list does not go on above its small share.
	read := make(chan error)
	go func() {
		_, err := d.Block(context.Background(), &s.refs[399], size)
		read <- err
	}()
	until(t, "the guest's request is under way", func() bool {
		c.ahead.mu.Lock()
		defer c.ahead.mu.Unlock()
		return c.ahead.waiting == 1
	})
	if err := c.ahead.await(expired(t), 1); err == nil {
		t.Error("a list goes on while a guest waits")
	}
	close(h.free)
	if err := <-read; err != nil {
		t.Error(err)
	}
	<-followed
	cancel()
	for i := range 300 {
		if !d.Has(&s.refs[i].Hash, size) {
			t.Fatalf("block %d of the list is not here", i)
		}
	}
	until(t, "nothing is in flight", func() bool {
		c.ahead.mu.Lock()
		defer c.ahead.mu.Unlock()
		return c.ahead.bytes == 0 && c.ahead.waiting == 0
	})
}

// expired is a context that ends soon.
func expired(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// TestFollowEnds: a list ends with its context, also while it waits for its turn.
func TestFollowEnds(t *testing.T) {
	s := newStock(t, 200)
	h := &held{Store: s.store, free: make(chan struct{})}
	c, err := Open(Options{FS: vfs.NewMem(), Disk: 1 << 30, Local: local, Store: h})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() {
		c.Domain("t", s.hasher, nil).Follow(ctx, slices.Values(s.refs), size)
		close(ended)
	}()
	until(t, "the list waits", func() bool { return h.waiting() > followBytes-maxAhead })
	cancel()
	close(h.free)
	<-ended
	if len(c.flights) != 0 {
		t.Errorf("%d flights were left", len(c.flights))
	}
}

// TestCloseEndsFetches: nothing that was fetched ahead of need comes after the cache is
// closed, and a fetch that would not end does not hold up the close.
func TestCloseEndsFetches(t *testing.T) {
	s := newStock(t, 40)
	h := &stuck{Store: s.store}
	c, err := Open(Options{FS: vfs.NewMem(), Disk: 1 << 30, Local: local, Store: h})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Domain("t", s.hasher, nil)
	var credit readahead.Credit
	d.Ahead(s.refs[:8], size, 4, &credit)
	d.Prefetch(s.refs[20:24], size)
	until(t, "both are under way", func() bool { return h.now.Load() == 2 })
	c.Close()
	if n := h.now.Load(); n != 0 {
		t.Errorf("%d requests are under way after the close", n)
	}
	d.Ahead(s.refs[8:16], size, 4, &credit)
	d.Prefetch(s.refs[30:34], size)
	if len(c.flights) != 0 || h.now.Load() != 0 || c.ahead.bytes != 0 || len(c.slots) != 0 {
		t.Error("something was begun after the close")
	}
}

// stuck is a store that does not answer.
type stuck struct {
	objstore.Store
	now atomic.Int64
}

func (s *stuck) GetRange(ctx context.Context, _ string, _, _ int64) ([]byte, error) {
	s.now.Add(1)
	defer s.now.Add(-1)
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestAheadInAnyOrder: blocks that lie in packs in another order than in the volume, as
// those that were written again do.
func TestAheadInAnyOrder(t *testing.T) {
	s := newStock(t, 40)
	refs := slices.Clone(s.refs)
	slices.Reverse(refs[:10])
	refs[20], refs[25], refs[21] = refs[25], refs[21], refs[20]
	for from := 0; from < 40; from += 10 {
		_, d := s.open(t, vfs.NewMem(), 0, 1<<30)
		var credit readahead.Credit
		d.Ahead(refs[from:from+8], size, 8, &credit)
		until(t, "the window is here", func() bool {
			return !slices.ContainsFunc(refs[from:from+8], func(r pack.Ref) bool { return !d.Has(&r.Hash, size) })
		})
	}
	// Places that overlap, as in a map that was tampered with, are not fetched together.
	a, b := refs[0], refs[1]
	for _, off := range []uint32{a.Off, a.Off - 100, a.Off + a.Len - 1} {
		if b.Off = off; together([]pack.Ref{a, b}, maxTogether) != 1 {
			t.Errorf("a block at %d is fetched together with one of %d bytes at %d", off, a.Len, a.Off)
		}
	}
}

// short is a store that breaks its word: it sends less than was asked for.
type short struct{ objstore.Store }

func (s short) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b, err := s.Store.GetRange(ctx, key, off, n)
	return b[:len(b)/2], err
}

// TestPanicAhead: a bug in a fetch that nobody waits for ends that fetch, is told, and
// leaves nobody waiting.
func TestPanicAhead(t *testing.T) {
	s := newStock(t, 8)
	told := make(chan string, 10)
	c, err := Open(Options{FS: vfs.NewMem(), Disk: 1 << 30, Local: local, Store: short{s.store}, Panicked: func(doing string, _ any) error { told <- doing; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	d := c.Domain("t", s.hasher, nil)
	var credit readahead.Credit
	d.Ahead(s.refs, size, 4, &credit)
	if doing := <-told; doing != "a fetch ahead of need" {
		t.Errorf("told of %q", doing)
	}
	c.Close() // returns, since nothing is under way
	if len(c.flights) != 0 || c.ahead.bytes != 0 {
		t.Errorf("%d flights and %d bytes are left", len(c.flights), c.ahead.bytes)
	}
}
