package flush

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

const blockSize = 4096

var ctx = context.Background()

// fakes are the pins and the dedup index of one tenant, in memory.
type fakes struct {
	mu      sync.Mutex
	refs    map[pack.Hash]pack.Ref
	pinned  int
	dropped int
}

func (f *fakes) pin() (func(context.Context) error, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pinned++
	return func(context.Context) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.dropped++
		return nil
	}, nil
}

func (f *fakes) PinSession(context.Context, [8]byte) (func(context.Context) error, error) {
	return f.pin()
}
func (f *fakes) PinPacks(context.Context, []pack.ID) (func(context.Context) error, error) {
	return f.pin()
}

func (f *fakes) Block(h pack.Hash) (pack.Ref, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refs[h], nil
}

func (f *fakes) AddBlocks(refs []pack.Ref) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range refs {
		f.refs[r.Hash] = r
	}
	return nil
}

func (f *fakes) ForgetBlock(h pack.Hash) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.refs, h)
	return nil
}

// bench is a store, a session, and the map from which the next fold continues.
type bench struct {
	t       *testing.T
	store   objstore.Store
	fakes   *fakes
	session *Session
	hasher  *pack.Hasher
	source  *blockmap.Source
	base    *blockmap.Map
	count   objstore.Counter
	nonce   uint64
}

func newBench(t *testing.T, blocks uint64) *bench {
	b := &bench{t: t, fakes: &fakes{refs: map[pack.Hash]pack.Ref{}}, hasher: pack.NewHasher("t")}
	b.store = objstore.Count(objstore.NewMem(objstore.Clock{}), &b.count)
	b.restart()
	b.source = blockmap.NewPageCache(1<<20).Source(b, b.hasher)
	b.open(blockmap.Root{}, blocks)
	return b
}

// restart begins a new session: the packs of the old one must now be pinned.
func (b *bench) restart() {
	b.session = NewSession(b.store, b.fakes, func() uint64 { b.nonce++; return b.nonce })
}

func (b *bench) open(root blockmap.Root, blocks uint64) {
	b.t.Helper()
	m, err := blockmap.New(b.source, root, blocks)
	if err != nil {
		b.t.Fatal(err)
	}
	b.base = m
}

// Page implements blockmap.Pages. It reads only from the store.
func (b *bench) Page(ctx context.Context, ref pack.Ref) ([]byte, error) {
	raw, err := b.store.GetRange(ctx, ref.Pack.Key(), int64(ref.Off), int64(ref.Len))
	if err != nil {
		return nil, err
	}
	return pack.Open(b.hasher, ref, raw, nil, 1<<20)
}

func (b *bench) options() Options {
	return Options{Hasher: b.hasher, Index: b.fakes, Limits: pack.Limits{Blocks: 3}}
}

// fold folds the changes and continues from the result.
func (b *bench) fold(changes ...Change) Result {
	b.t.Helper()
	end := b.session.Begin()
	defer end(ctx)
	res, err := Fold(ctx, b.session, b.base, b.base.Edit(), list(changes), b.options())
	if err != nil {
		b.t.Fatal(err)
	}
	b.open(res.Root, b.base.Blocks())
	return res
}

func list(changes []Change) Source {
	return func(_ context.Context, fn func(Change) error) error {
		for _, c := range changes {
			if err := fn(c); err != nil {
				return err
			}
		}
		return nil
	}
}

func (b *bench) block(idx uint64) []byte {
	b.t.Helper()
	ref, err := b.base.Lookup(ctx, idx)
	if err != nil {
		b.t.Fatal(err)
	}
	if ref.IsHole() {
		return make([]byte, blockSize)
	}
	raw, err := b.Page(ctx, ref)
	if err != nil {
		b.t.Fatal(err)
	}
	return raw
}

func content(seed uint64) []byte {
	raw := make([]byte, blockSize)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(raw)
	return raw
}

func one(idx uint64, raw []byte) Change { return Change{First: idx, Count: 1, Raw: raw} }

// TestFoldModel folds sets of random changes, and reads them back through map and packs.
// The result must equal a model. published-is-complete.
func TestFoldModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		blocks := 1 + r.Uint64N(300)
		b := newBench(t, blocks)
		model := map[uint64][]byte{}
		for range 6 {
			var changes []Change
			for idx := uint64(0); idx < blocks; idx++ {
				switch r.IntN(8) {
				case 0: // few different contents: duplicates within a fold and between folds
					raw := content(r.Uint64N(40))
					changes = append(changes, one(idx, bytes.Clone(raw)))
					model[idx] = raw
				case 1: // loaded by a worker
					raw := content(r.Uint64())
					changes = append(changes, Change{First: idx, Count: 1, Load: func(context.Context) ([]byte, error) { return bytes.Clone(raw), nil }})
					model[idx] = raw
				case 2: // content of zeros is a hole
					changes = append(changes, one(idx, make([]byte, blockSize)))
					delete(model, idx)
				case 3:
					n := 1 + r.Uint64N(blocks-idx)
					changes = append(changes, Change{First: idx, Count: n})
					for i := range n {
						delete(model, idx+i)
					}
					idx += n - 1
				}
			}
			b.fold(changes...)
			if r.IntN(3) == 0 {
				b.restart()
			}
			seen := 0
			if err := b.base.Walk(ctx, 0, blocks, func(idx uint64, _ pack.Ref) error {
				seen++
				if model[idx] == nil || !bytes.Equal(b.block(idx), model[idx]) {
					t.Fatalf("seed %d: block %d is not what was folded", seed, idx)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if seen != len(model) {
				t.Fatalf("seed %d: %d blocks are mapped, %d were folded", seed, seen, len(model))
			}
		}
	}
}

// TestZeroRuns: zeroing a huge disk entirely is cheap. zero-is-free.
func TestZeroRuns(t *testing.T) {
	const blocks = 16 << 40 / blockSize
	b := newBench(t, blocks)
	if res := b.fold(Change{First: 0, Count: blocks}); !res.Root.IsHole() || b.count.Counts().Requests() != 0 {
		t.Fatalf("zeros over nothing: %+v, %+v", res, b.count.Counts())
	}
	b.fold(one(0, content(1)), one(blocks/2, content(2)), one(blocks-1, content(3)))
	before := b.count.Counts()
	res := b.fold(Change{First: 1, Count: blocks - 2})
	if d := b.count.Counts().Sub(before); d.Put != 1 || d.Get > 8 || d.BytesUp > 16<<10 || res.Folded != 0 {
		t.Fatalf("%+v, %+v", d, res)
	}
	if !bytes.Equal(b.block(0), content(1)) || !bytes.Equal(b.block(blocks/2), make([]byte, blockSize)) || !bytes.Equal(b.block(blocks-1), content(3)) {
		t.Fatal("the wrong blocks were zeroed")
	}
	if res := b.fold(Change{First: 0, Count: blocks}); !res.Root.IsHole() {
		t.Fatalf("%+v", res)
	}
}

// TestDedupWithinOneFold: equal blocks are uploaded once, whether the pack of the first
// is still being filled, being uploaded, or done.
func TestDedupWithinOneFold(t *testing.T) {
	b := newBench(t, 100)
	var changes []Change
	for idx := range uint64(100) {
		changes = append(changes, one(idx, content(idx%5)))
	}
	res := b.fold(changes...)
	if res.Folded != 100 || res.New != 5 || res.Hits+res.New > 100 || len(res.Reused) != 0 {
		t.Fatalf("%+v", res)
	}
	for idx := range uint64(100) {
		if !bytes.Equal(b.block(idx), content(idx%5)) {
			t.Fatalf("block %d", idx)
		}
	}
	// The same content at the same place again: nothing to do, and nothing to pin.
	puts := b.count.Counts().Put
	b.restart()
	if res := b.fold(one(7, content(7%5))); res.New != 0 || len(res.Reused) != 0 || b.count.Counts().Put != puts {
		t.Fatalf("%+v", res)
	}
}

// TestBorrowed: a fold returns the packs of others that it refers to, and the blocks in
// them. If the caller finds them gone and removes them from the index, the next fold
// stores the blocks again. reachable-is-kept.
func TestBorrowed(t *testing.T) {
	b := newBench(t, 100)
	first := b.fold(one(0, content(1)), one(1, content(2)))
	old, err := b.base.Lookup(ctx, 0)
	if err != nil || first.New != 2 {
		t.Fatalf("%+v, %v", first, err)
	}
	// In the session that uploaded the block, and while its pin exists, a hit needs no
	// check.
	if res := b.fold(one(10, content(1))); len(res.Reused) != 0 || res.Hits != 1 {
		t.Fatalf("%+v", res)
	}
	b.restart()
	base := b.base
	res := b.fold(one(20, content(1)), one(21, content(2)), one(22, content(3)))
	if res.New != 1 || len(res.Reused) != 1 || len(res.Reused[old.Pack]) != 2 {
		t.Fatalf("%+v", res)
	}
	if err := b.store.Delete(ctx, old.Pack.Key()); err != nil {
		t.Fatal(err)
	}
	for _, h := range res.Reused[old.Pack] {
		if err := b.fakes.ForgetBlock(h); err != nil {
			t.Fatal(err)
		}
	}
	b.base = base
	if res = b.fold(one(20, content(1)), one(21, content(2)), one(22, content(3))); res.New != 2 || len(res.Reused) != 0 {
		t.Fatalf("%+v", res)
	}
	for i, seed := range []uint64{1, 2, 3} {
		if !bytes.Equal(b.block(uint64(20+i)), content(seed)) {
			t.Fatalf("block %d", 20+i)
		}
	}
}

// TestFailedUpload: a fold whose upload or source fails returns the error, and the index
// never learns of blocks that the store does not have. published-is-complete.
func TestFailedUpload(t *testing.T) {
	for n := range 8 {
		b := newBench(t, 100)
		faults := objstore.NewFaults(b.store, 1)
		b.session = NewSession(faults, b.fakes, func() uint64 { b.nonce++; return b.nonce })
		faults.Inject(objstore.Fault{Ops: []objstore.Op{objstore.OpPut}, Skip: n, Times: 1, Effect: objstore.FailBefore})
		changes := func() (out []Change) { // a fold consumes the blocks
			for idx := range uint64(20) {
				out = append(out, one(idx, content(idx)))
			}
			return out
		}
		_, err := Fold(ctx, b.session, b.base, b.base.Edit(), list(changes()), b.options())
		if (err != nil) != (n < 7) { // 20 blocks are seven packs of three; the pages are in the last
			t.Fatalf("put %d failed: %v", n, err)
		}
		for _, ref := range b.fakes.refs {
			if _, err := b.Page(ctx, ref); err != nil {
				t.Fatalf("put %d failed, and the index names what is not there: %v", n, err)
			}
		}
		faults.Clear()
		b.fold(changes()...)
		for idx := range uint64(20) {
			if !bytes.Equal(b.block(idx), content(idx)) {
				t.Fatalf("block %d", idx)
			}
		}
	}
	b := newBench(t, 10)
	broken := errors.New("the image ends early")
	_, err := Fold(ctx, b.session, b.base, b.base.Edit(), func(_ context.Context, fn func(Change) error) error {
		if err := fn(one(0, content(1))); err != nil {
			return err
		}
		return broken
	}, b.options())
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

// TestLongImport: during a long fold in order, the map's pages are published as it
// proceeds. Folded is called in order, and the result is complete. bounded.
func TestLongImport(t *testing.T) {
	const n = 5*aheadBlocks + 77
	b := newBench(t, n)
	last, early := -1, 0
	opts := b.options()
	opts.Limits.Blocks = 1000
	opts.Folded = func(idx uint64, _ pack.Hash, _ []byte) {
		if int(idx) != last+1 {
			t.Errorf("block %d after %d", idx, last)
		}
		last = int(idx)
	}
	seen := func(objstore.Info) bool { early++; return true }
	src := func(_ context.Context, fn func(Change) error) error {
		for idx := range uint64(n) {
			raw := make([]byte, blockSize) // how well the content compresses does not matter here
			copy(raw, content(idx)[:16])
			if err := fn(one(idx, raw)); err != nil {
				return err
			}
			if idx == 4*aheadBlocks { // what was uploaded before the end
				if err := objstore.ListAll(ctx, b.store, "packs/", "", seen); err != nil {
					return err
				}
			}
		}
		return nil
	}
	res, err := Fold(ctx, b.session, b.base, b.base.Edit(), src, opts)
	if err != nil {
		t.Fatal(err)
	}
	if early < 4 {
		t.Fatalf("only %d packs were in the store when four fifths were folded: what waits is not bounded", early)
	}
	if res.Folded != n || last != n-1 {
		t.Fatalf("%+v, %d", res, last)
	}
	b.open(res.Root, n)
	for idx := uint64(0); idx < n; idx += 997 {
		if !strings.HasPrefix(string(b.block(idx)), string(content(idx)[:16])) {
			t.Fatalf("block %d", idx)
		}
	}
}

// TestRepetitiveImport: if the store has nearly all blocks, the pack that is being filled
// stays open for long. It must not delay the map of everything after it. bounded.
func TestRepetitiveImport(t *testing.T) {
	const n = 3*waitBlocks + 5
	b := newBench(t, n)
	opts := b.options()
	opts.Limits.Blocks = 25
	var pages atomic.Int64
	opts.Page = func(pack.Hash, []byte) { pages.Add(1) }
	kind := func(idx uint64) byte { return byte(idx*idx>>3)%7 + 1 }
	early := int64(0)
	src := func(_ context.Context, fn func(Change) error) error {
		for idx := range uint64(n) {
			raw := NewBlock(blockSize)
			raw[0] = kind(idx)
			if err := fn(one(idx, raw)); err != nil {
				return err
			}
			if idx == 2*waitBlocks {
				early = pages.Load()
			}
		}
		return nil
	}
	res, err := Fold(ctx, b.session, b.base, b.base.Edit(), src, opts)
	if err != nil {
		t.Fatal(err)
	}
	if res.New != 7 || res.Folded != n {
		t.Errorf("%+v", res)
	}
	if least := int64(waitBlocks / blockmap.Fanout); early < least {
		t.Errorf("%d pages of the map were published half-way, at least %d are wanted", early, least)
	}
	b.open(res.Root, n)
	for idx := uint64(0); idx < n; idx += 499 {
		if got := b.block(idx); got[0] != kind(idx) {
			t.Fatalf("block %d is of kind %d, not %d", idx, got[0], kind(idx))
		}
	}
}
