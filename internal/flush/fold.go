// Package flush turns the changes of a disk into packs and map pages in the store: fold,
// deduplicate, encode, upload. It does not commit. It returns the root that a commit may
// name, or (Store) the places of blocks that a data commit may name.
//
// A fold is a pipeline. Its source yields changed blocks in order. Workers hash and
// encode them in parallel. The folder processes them in order: it looks each one up in
// the dedup index and fills packs, of which a bounded number are uploaded in parallel.
// The changed pages of the map follow in the last pack, so that a flush of one block is
// one object.
package flush

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/seal"
)

// Change is what a source yields: a run of blocks that are now holes, or one block with
// its content or a function that loads it.
type Change struct {
	First, Count uint64
	Raw          []byte // from NewBlock; the folder returns it to the pool
	// Load, if set, returns the content. It is called for several blocks in parallel,
	// because what is below a partly written block may have to be fetched.
	//
	// glide:blocks
	Load func(ctx context.Context) ([]byte, error)
}

// blocks are reused: allocating them would cost a fold too much.
var blocks, slots sync.Pool

// NewBlock returns a block of n zeros for a Change.
func NewBlock(n int) []byte {
	if b, ok := blocks.Get().(*[]byte); ok && len(*b) == n {
		clear(*b)
		return *b
	}
	return make([]byte, n)
}

func newSlot(n int) []byte {
	if b, ok := slots.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:0]
	}
	return make([]byte, 0, n)
}

// workers is how many blocks are loaded, hashed and encoded in parallel. It exceeds the
// number of cores, because some workers wait for the store.
const workers = 16

// Source yields the changes to fn in ascending order. An error of fn ends it and is
// returned.
type Source func(ctx context.Context, fn func(Change) error) error

// Index is the dedup index of one tenant: it knows where blocks are stored. All methods
// may be called concurrently.
type Index interface {
	// Block returns where a block is stored, or a hole if the index does not know it.
	//
	// glide:blocks
	Block(h pack.Hash) (pack.Ref, error)
	// AddBlocks adds blocks that are durable in the store.
	//
	// glide:blocks
	AddBlocks(refs []pack.Ref) error
	// ForgetBlock removes a block that was not at the place in the index.
	//
	// glide:blocks
	ForgetBlock(h pack.Hash) error
}

// Options configure a Folder.
type Options struct {
	Hasher *pack.Hasher // what it is when the fold begins has the keys
	Index  Index
	Domain uint32 // of the packs; a hasher with keys has its own
	// Home stores also what the base has in another domain again, in that of the hasher.
	Home        bool
	Limits      pack.Limits
	Compression pack.Compression
	// Uploads is how many packs may be uploaded in parallel; 0 means 4.
	Uploads int
	// Folded is called in order for each block with content, so that the cache need not
	// fetch it. It must not keep the raw bytes. nil: never.
	Folded func(idx uint64, h pack.Hash, raw []byte)
	// Page is called for each page of the map that is put into a pack, so that the host
	// need not fetch its own map. It must not keep the page. nil: never.
	Page func(h pack.Hash, page []byte)
	// Progress is called with the number of bytes folded so far. nil: never.
	Progress func(bytes uint64)
}

// Result is what a fold did.
type Result struct {
	Root     blockmap.Root
	Folded   uint64 // blocks with content
	New      uint64 // of those, uploaded
	Hits     uint64 // of those, found in the dedup index
	Uploaded uint64 // bytes of packs
	// Reused are the packs that the root, or Blocks, refers to although neither the
	// previous map nor the uploads of this session have them. The caller must pin them.
	Reused map[pack.ID][]pack.Hash
	// Blocks is where the blocks are that Store was given, by index.
	Blocks map[uint64]pack.Ref
}

// folder is the state of one fold. Only the goroutine of run uses it.
type folder struct {
	opts    Options
	session *Session
	codec   pack.Codec
	edit    *blockmap.Edit // nil: there is no map, and res.Blocks gets the places
	base    *blockmap.Map  // nil if edit is
	res     Result
	ctx     context.Context
	uploads *errgroup.Group

	cur     *pack.Builder
	waiting map[pack.Hash][]uint64 // block indexes by hash, in cur
	order   []pack.Hash            // hashes of cur, in order
	// recent are the blocks of packs that may still be uploading, and so are not in the
	// index.
	recent  map[pack.Hash]pack.Ref
	pages   *pack.Builder // for map pages that do not fit after the blocks
	bytes   uint64
	taken   uint64 // every change before this index has been processed
	settled uint64 // index up to which pages have been published in advance
}

// encoded is a block that passes through the workers.
type encoded struct {
	idx   uint64
	raw   []byte
	load  func(context.Context) ([]byte, error)
	hash  pack.Hash
	slot  []byte
	known pack.Ref
	err   error
	ready chan struct{}
}

// Fold applies the changes to the map and uploads what the store does not have yet. When
// it returns without an error, everything that the root names is durable
// (published-is-complete), except for the packs in Reused: the caller must pin those. The
// edit must have been made from base, and may have been changed before. It cannot be used
// afterwards, not even after an error.
func Fold(ctx context.Context, s *Session, base *blockmap.Map, edit *blockmap.Edit, src Source, opts Options) (Result, error) {
	return run(ctx, &folder{opts: opts, session: s, edit: edit, base: base}, src, "commit-before-packs")
}

// Store uploads the blocks of a source that the store does not have yet, without a map,
// and returns where each block is: Result.Blocks has a hole for a block of zeros. When
// Store returns without an error, all of them are durable, except for those in the packs
// of Reused: the caller must pin those.
func Store(ctx context.Context, s *Session, src Source, opts Options) (Result, error) {
	f := &folder{opts: opts, session: s}
	f.res.Blocks = map[uint64]pack.Ref{}
	return run(ctx, f, src, "data-commit-before-packs")
}

// run runs the pipeline. With the fault called early planted, it does not wait for the
// uploads.
func run(ctx context.Context, f *folder, src Source, early string) (Result, error) {
	if f.opts.Uploads == 0 {
		f.opts.Uploads = 4
	}
	caller := ctx
	uploads, uctx := errgroup.WithContext(ctx)
	g, ctx := errgroup.WithContext(uctx) // a failed upload also ends the reading
	uploads.SetLimit(f.opts.Uploads)
	f.ctx, f.uploads = uctx, uploads
	f.waiting, f.recent, f.res.Reused = map[pack.Hash][]uint64{}, map[pack.Hash]pack.Ref{}, map[pack.ID][]pack.Hash{}
	changing := f.opts.Hasher
	var err error
	if f.opts.Hasher, err = changing.Renewed(ctx); err != nil {
		return f.res, err
	}
	f.codec = f.opts.Hasher.Codec()
	work := make(chan *encoded, workers)
	queue := make(chan any, 2*workers) // *encoded and Change, in order
	g.Go(func() (err error) {
		defer errs.Catch(&err)
		defer close(queue)
		defer close(work)
		return src(ctx, func(c Change) error { return feed(ctx, c, work, queue) })
	})
	for range workers {
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			for e := range work {
				f.encode(ctx, e)
				close(e.ready)
			}
			return nil
		})
	}
	g.Go(func() (err error) {
		defer errs.Catch(&err)
		return f.take(ctx, queue)
	})
	err = g.Wait()
	if err == nil {
		err = f.finish()
	}
	if fault.Is(early) {
		return f.res, err
	}
	// A failed upload ends the reading, which then reports only that.
	if uerr := uploads.Wait(); uerr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = uerr
	}
	if err == nil { // a fold may take long
		_, err = changing.Renewed(caller)
	}
	if err == nil && !changing.Is(f.opts.Hasher) {
		// Blocks, and pages of the map, would be of two domains under hashes of one.
		err = errs.New(errs.Busy, "the tenant became a sealed one meanwhile; try again")
	}
	return f.res, err
}

func feed(ctx context.Context, c Change, work chan<- *encoded, queue chan<- any) error {
	var item any = c
	if c.Raw != nil || c.Load != nil {
		e := &encoded{idx: c.First, raw: c.Raw, load: c.Load, ready: make(chan struct{})}
		select {
		case work <- e:
		case <-ctx.Done():
			return ctx.Err()
		}
		item = e
	}
	select {
	case queue <- item:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// encode does in parallel what needs no order: it recognises zeros, hashes, looks the
// hash up, and encodes the block if it was not found.
func (f *folder) encode(ctx context.Context, e *encoded) {
	if e.load != nil {
		if e.raw, e.err = e.load(ctx); e.err != nil {
			return
		}
	}
	if allZero(e.raw) {
		raw := e.raw // this variable belongs to the pool from here on
		e.raw = nil
		blocks.Put(&raw)
		return
	}
	e.hash = f.opts.Hasher.Sum(e.raw)
	if e.known, e.err = f.same(e); e.err != nil || !e.known.IsHole() {
		return
	}
	if e.known, e.err = f.opts.Index.Block(e.hash); e.err != nil || !e.known.IsHole() {
		return
	}
	e.slot = f.codec.EncodeSlot(newSlot(len(e.raw)+pack.SlotHeaderLen+seal.MaxOverhead), pack.KindBlock, e.hash, e.raw, f.opts.Compression)
}

// zeros is for comparison: comparing memory is the fastest test for zeros.
var zeros [64 << 10]byte

func allZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// take processes the changes in order.
func (f *folder) take(ctx context.Context, queue <-chan any) error {
	for item := range queue {
		switch c := item.(type) {
		case Change:
			f.zero(c.First, c.Count)
			f.taken = c.First + c.Count
		case *encoded:
			select {
			case <-c.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			if c.err != nil {
				return c.err
			}
			f.taken = c.idx + 1
			if err := f.block(c); err != nil {
				return err
			}
			if c.raw != nil {
				blocks.Put(&c.raw)
			}
			if c.slot != nil {
				slots.Put(&c.slot)
			}
		}
		if err := f.passed(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// before returns what the base has at an index; a hole without a base.
func (f *folder) before(idx uint64) (pack.Ref, error) {
	if f.base == nil {
		return pack.Ref{}, nil
	}
	return f.base.Lookup(f.ctx, idx)
}

// same returns what the base has at the block's index if that is the block; else a hole.
// What lies in another domain has that domain's hash.
func (f *folder) same(e *encoded) (pack.Ref, error) {
	old, err := f.before(e.idx)
	if err != nil || old.IsHole() {
		return pack.Ref{}, err
	}
	h, err := f.opts.Hasher.In(old.Pack.Domain)
	switch {
	case err != nil:
		return pack.Ref{}, err
	case h == f.opts.Hasher && old.Hash == e.hash, h != f.opts.Hasher && !f.opts.Home && old.Hash == h.Sum(e.raw):
		return old, nil
	}
	return pack.Ref{}, nil
}

// set records where a block is.
func (f *folder) set(idx uint64, ref pack.Ref) error {
	if f.edit == nil {
		f.res.Blocks[idx] = ref
		return nil
	}
	return f.edit.Set(idx, ref)
}

// zero records that blocks are holes.
func (f *folder) zero(first, count uint64) {
	if f.edit == nil {
		for idx := first; idx < first+count; idx++ {
			f.res.Blocks[idx] = pack.Ref{}
		}
		return
	}
	f.edit.ZeroRange(first, first+count)
}

// block adds one block to the map, or to the pack that is being filled.
func (f *folder) block(e *encoded) error {
	if e.raw == nil {
		f.zero(e.idx, 1)
		return nil
	}
	f.res.Folded++
	f.bytes += uint64(len(e.raw))
	if f.opts.Progress != nil {
		f.opts.Progress(f.bytes)
	}
	if f.opts.Folded != nil {
		hash := e.hash
		if !e.known.IsHole() {
			hash = e.known.Hash // of another domain, it may be
		}
		f.opts.Folded(e.idx, hash, e.raw)
	}
	if ref, ok := f.recent[e.hash]; ok {
		e.known = ref
	}
	if !e.known.IsHole() {
		return f.known(e)
	}
	if _, ok := f.waiting[e.hash]; ok {
		f.waiting[e.hash] = append(f.waiting[e.hash], e.idx)
		return nil
	}
	if f.cur == nil {
		b, err := f.session.newPack(f.ctx, f.codec, f.opts.Domain, f.opts.Limits)
		if err != nil {
			return err
		}
		f.cur = b
	}
	f.cur.AddBlock(e.hash, e.slot)
	f.waiting[e.hash] = []uint64{e.idx}
	f.order = append(f.order, e.hash)
	f.res.New++
	if f.cur.Full() {
		f.uploadCurrent()
	}
	return nil
}

// uploadCurrent completes and uploads the pack that is being filled, if there is one.
func (f *folder) uploadCurrent() {
	if b := f.cur; b != nil {
		refs := f.seal()
		f.cur = nil
		f.upload(b, refs)
	}
}

// known adds a block that the store has.
func (f *folder) known(e *encoded) error {
	if err := f.set(e.idx, e.known); err != nil {
		return err
	}
	if !f.session.owns(e.known.Pack) {
		old, err := f.before(e.idx)
		if err != nil {
			return err
		}
		if old != e.known {
			f.res.Hits++
			f.res.Reused[e.known.Pack] = append(f.res.Reused[e.known.Pack], e.known.Hash)
		}
	} else {
		f.res.Hits++
	}
	return nil
}

// seal assigns places to the blocks of the current pack.
func (f *folder) seal() []pack.Ref {
	f.cur.Seal()
	refs := append([]pack.Ref(nil), f.cur.Refs()...)
	for i, h := range f.order {
		for _, idx := range f.waiting[h] {
			// Set fails only for an index beyond the map, which would be an error of the
			// source.
			if err := f.set(idx, refs[i]); err != nil {
				panic(err)
			}
		}
		f.recent[h] = refs[i]
	}
	clear(f.waiting)
	f.order = f.order[:0]
	return refs
}

// recentMax bounds the blocks that are remembered in addition to the index: about 16 MiB.
const recentMax = 1 << 17

func (f *folder) upload(b *pack.Builder, refs []pack.Ref) {
	if len(f.recent) > recentMax {
		// Few uploads are in progress. At worst their blocks are stored twice.
		clear(f.recent)
	}
	obj := b.Finish()
	key := b.Seal().Key()
	f.res.Uploaded += uint64(len(obj))
	f.uploads.Go(func() (err error) {
		defer errs.Catch(&err)
		if err := f.session.store.Put(f.ctx, key, obj); err != nil {
			return err
		}
		f.session.reuse(b)
		return f.opts.Index.AddBlocks(refs)
	})
}

// aheadBlocks is how many blocks a fold processes before it publishes their map pages:
// the leaves of 4096 blocks take less than 200 KiB.
const aheadBlocks = 4096

// waitBlocks is how many blocks a fold processes at most while it waits for a pack to
// become full. If the store has nearly all blocks, a pack with a single new block would
// otherwise delay the map of the whole disk.
const waitBlocks = 4 * aheadBlocks

// passed publishes the map of the blocks processed so far from time to time, so that a
// long import holds little of it. Blocks of the current pack have no place yet, so passed
// waits for that pack, up to waitBlocks.
func (f *folder) passed() error {
	if f.edit == nil || f.taken < f.settled+aheadBlocks || f.cur != nil && f.taken < f.settled+waitBlocks {
		return nil
	}
	f.uploadCurrent()
	f.settled = f.taken
	return f.edit.PublishBefore(f.ctx, f.taken, f)
}

// AddPage makes the folder the sink of the map's pages. They follow the last blocks if
// they fit into that pack; the others go into packs of pages.
func (f *folder) AddPage(_ context.Context, hash pack.Hash, page []byte) (pack.Ref, error) {
	if f.opts.Page != nil {
		f.opts.Page(hash, page)
	}
	slot := f.codec.EncodeSlot(nil, pack.KindPage, hash, page, f.opts.Compression)
	if f.pages != nil && f.pages.Room() < len(slot) {
		f.upload(f.pages, nil)
		f.pages = nil
	}
	if f.pages == nil {
		b, err := f.session.newPack(f.ctx, f.codec, f.opts.Domain, f.opts.Limits)
		if err != nil {
			return pack.Ref{}, err
		}
		b.Seal()
		f.pages = b
	}
	return f.pages.AddPage(hash, slot), nil
}

// finish publishes the map, if there is one.
func (f *folder) finish() error {
	if f.edit == nil {
		f.uploadCurrent()
		return nil
	}
	if f.cur != nil {
		refs := f.seal()
		if f.pages != nil {
			f.upload(f.pages, nil)
		}
		f.pages = f.cur
		defer func() { f.recentIndex(refs) }()
		f.cur = nil
	}
	root, err := f.edit.Publish(f.ctx, f)
	if err != nil {
		return err
	}
	f.res.Root = root
	if f.pages != nil {
		f.upload(f.pages, nil)
	}
	return nil
}

// recentIndex adds the blocks of the last pack to the index after it is uploaded.
func (f *folder) recentIndex(refs []pack.Ref) {
	if err := f.uploads.Wait(); err == nil {
		// It is only an index: a block that it lacks is stored again one day.
		_ = f.opts.Index.AddBlocks(refs)
	}
}
