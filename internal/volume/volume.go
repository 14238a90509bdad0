// Package volume is one disk. Writes that are not published yet lie in the log and are
// found through an overlay of byte ranges. Under the overlay lies the block map that was
// last published.
//
// # Invariants
//
//	Folded <= durable <= seq; the overlay holds every record after Folded.
//	A place in an overlay lies in a segment that its volume (or cut) holds.
//
// # Locks, in the order in which they are taken
//
//	foldMu   one fold, cleaning, rollback or close at a time; held for as long as that takes
//	saveMu   the volume's record in the metadata is written under it, in order
//	wmu      orders writes: the log's numbers and the overlay change together
//	stMu     state and the list of held segments; never held over I/O
//	omu      overlay, base and their accounts; readers take it shared, for lookups only
//
// damages.mu comes before stMu and omu. It is taken where damage is found or asked for.
//
// Reads hold no lock while they read. A readguard.Guard keeps the segments that they may read
// from being recycled.
package volume

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/readahead"
	"github.com/paraglide/glide/internal/volume/internal/readguard"
	"github.com/paraglide/glide/internal/wal"
)

// Blocks reads published blocks through the host's cache, and verifies them. All methods
// may be called concurrently. The blocks must not be modified.
type Blocks interface {
	// Block returns the raw block, size bytes long, and fetches it if needed.
	//
	// glide:blocks
	Block(ctx context.Context, ref *pack.Ref, size int) ([]byte, error)
	// TryRead fills p from byte off of a block of size bytes if that needs no disk and no
	// network. It reports whether it did.
	TryRead(hash *pack.Hash, size int, p []byte, off int) bool
	// ReadLocal is TryRead, but it may wait for the disk.
	ReadLocal(hash *pack.Hash, size int, p []byte, off int) bool
	// Fetch fills p from byte off of a block that is not on this host.
	Fetch(ctx context.Context, ref *pack.Ref, size int, p []byte, off int) error
	readahead.Blocks
	// Prefetch fetches blocks in the background that a guest asked for.
	Prefetch(refs []pack.Ref, size int)
}

// Env is what a volume needs from its host.
type Env struct {
	Log    *wal.Pool
	Pages  *blockmap.Source // block map pages of the volume's tenant
	Blocks Blocks           // blocks of the volume's tenant
	// BlocksFor returns Blocks for the reads of one volume; nil: they are the same for all.
	BlocksFor func(cost.Volume) Blocks
	// Save makes the records durable, all or none.
	//
	// glide:blocks
	Save func(...*State) error
	// SaveSoon saves records without waiting until they are durable, in order with Save.
	SaveSoon func(...*State) error
	// Forget durably removes the records of volumes that were not created after all.
	//
	// glide:blocks
	Forget func(...ID) error
	// Pressure is called when the log is full, with the time that the writer has waited
	// so far. It frees space or waits a little. If it returns an error, the write fails.
	//
	// glide:blocks
	Pressure func(v *Volume, waited time.Duration) error
	// Throttle is called before each write with the number of bytes. It may delay the
	// writer. nil: never.
	//
	// glide:blocks
	Throttle func(v *Volume, n int) error
	// Damaged is called once for each damage found in the volume's log. nil: never.
	Damaged func(v *Volume, err error)
	// SharedOverlays lets the volumes that a host opens at its start share what they
	// inherited. nil: nothing is shared.
	SharedOverlays *SharedOverlays
	// Now is the clock, for the age of unpublished writes.
	Now func() time.Time
	// Uptime is a clock that is never set and that counts suspensions of the machine. It
	// is for promises in time, so volumes whose policy ships need it.
	Uptime func() time.Duration
}

// held is a segment that counts for the volume up to a number; 0 means all of it, while
// it is being written.
type held struct {
	seg   *wal.Segment
	limit uint64
}

// last returns the greatest number that counts, or 0 while the segment is being written.
func (h held) last() uint64 {
	if h.limit > 0 {
		return h.limit
	}
	return h.seg.End()
}

// Volume is one open disk. All exported methods may be called concurrently.
type Volume struct {
	env Env
	id  ID

	foldMu sync.Mutex
	saveMu sync.Mutex

	wmu sync.Mutex
	log *wal.Log
	// displacedFn is the method value v.displaced, kept so that passing it does not
	// allocate.
	displacedFn func(extent.Extent)

	stMu  sync.Mutex // glide:nonblocking
	state State
	segs  []held
	// deadAt holds the segments that had no live data when cleaning last looked, and the
	// newest number at that time.
	deadAt map[*wal.Segment]uint64

	omu    sync.RWMutex // glide:nonblocking
	tree   *extent.Tree
	base   *blockmap.Map
	live   map[uint32]int64 // by segment number: bytes to which the overlay points
	dirty  int64            // bytes in the overlay that are not zeros
	oldest time.Time        // time of the oldest unpublished write, zero if there is none
	// zeroed is what was zeroed since the cut that is being folded; nil: no fold. One
	// zero looks like another, and those made after the cut have to stay (see prune).
	zeroed *extent.Tree
	// changed is what was written since the last TakeChanges. It is nil if the volume's
	// policy does not ship.
	changed   *changes
	changedAt atomic.Int64 // Env.Uptime of its oldest write, nanoseconds; 0: none. Written under omu
	changedN  atomic.Int64 // its bytes. Written under omu

	size   atomic.Uint64
	guard  readguard.Guard
	broken atomic.Pointer[brokenState]
	repair sync.Mutex
	// repaired counts repairs. After a repair, what an earlier cut says of the log no
	// longer holds.
	repaired atomic.Uint64
	guide    readahead.Guide
	reads    context.Context // of what guests read: says whose requests these are
	damages  damages
}

type brokenState struct{ err error }

// Open opens the volume of a record and reads the content of its log. force opens a
// damaged log up to the damage.
func Open(env Env, st State, force bool) (*Volume, error) {
	if err := st.Validate(); err != nil {
		return nil, err
	}
	sources := make([]wal.Source, 0, len(st.Segments))
	release := func() {
		for _, s := range sources {
			s.Segment.Release()
		}
	}
	for _, ref := range st.Segments {
		seg, err := env.Log.Claim(ref)
		if err != nil {
			if force {
				continue
			}
			release()
			return nil, err
		}
		sources = append(sources, wal.Source{Segment: seg, Limit: ref.Limit, First: ref.First})
	}
	rec, err := env.Log.Recover(wal.Identity(st.ID), sources, st.Folded, st.Floor, st.Used, force)
	if err != nil {
		release()
		return nil, err
	}
	v, err := newVolume(env, st)
	if err != nil {
		release()
		return nil, err
	}
	v.buildOverlay(rec)
	if v.tree.Count() > 0 {
		v.oldest = env.Now()
	}
	for _, s := range rec.Sources {
		s.Segment.Hold()
		v.segs = append(v.segs, held{s.Segment, s.Limit})
	}
	if invariants.Enabled {
		assertOverlay(v.id, v.tree, v.segs, v.live, v.dirty)
	}
	v.log = wal.NewLog(env.Log, wal.Identity(st.ID), rec.Last, v.attach)
	if len(v.segs) != len(st.Segments) {
		// The record must not name segments that are recycled now.
		if err := v.Update(func(*State) {}); err != nil {
			return v, v.keepNamed(sources)
		}
	}
	release()
	return v, nil
}

// keepNamed is for a disk that does not take the record. The segments that the record on
// the disk names are kept until the next start of the host, and the volume is opened
// anyway.
func (v *Volume) keepNamed(sources []wal.Source) error {
	used := map[*wal.Segment]bool{}
	for _, h := range v.segs {
		used[h.seg] = true
	}
	for _, s := range sources {
		if used[s.Segment] {
			s.Segment.Release() // the volume itself holds it
		}
	}
	st := v.State()
	return v.env.SaveSoon(&st)
}

// newVolume returns a volume with an empty overlay and no log.
func newVolume(env Env, st State) (*Volume, error) {
	base, err := blockmap.New(env.Pages, st.Root, st.RootBlocks)
	if err != nil {
		return nil, err
	}
	v := &Volume{env: env, id: st.ID, state: st, tree: extent.New(), base: base, live: map[uint32]int64{}, deadAt: map[*wal.Segment]uint64{}}
	payer := st.Payer()
	v.reads, v.guide.Volume = cost.Begin(context.Background(), cost.Read, payer), payer
	if env.BlocksFor != nil {
		v.env.Blocks = env.BlocksFor(payer)
	}
	v.displacedFn = v.displaced
	if st.Ships() {
		v.changed = newChanges()
	}
	v.size.Store(st.Size)
	v.guard.Init()
	return v, nil
}

// ID returns the volume's identity.
func (v *Volume) ID() ID { return v.id }

// Guide decides what to fetch before the guest asks for it.
func (v *Volume) Guide() *readahead.Guide { return &v.guide }

// Size returns the volume's size in bytes.
func (v *Volume) Size() uint64 { return v.size.Load() }

// State returns a copy of the volume's record as it would be saved now.
func (v *Volume) State() State {
	v.stMu.Lock()
	defer v.stMu.Unlock()
	return v.stateLocked()
}

func (v *Volume) stateLocked() State {
	st := v.state
	st.Version = stateVersion
	var durable uint64
	if v.log != nil {
		durable = v.log.Durable()
		if last := v.log.Last(); invariants.Enabled {
			invariants.Check(st.Folded <= durable && durable <= last, "%s is folded through %d, durable through %d, and ends at %d", st.Name, st.Folded, durable, last)
		}
	}
	st.Used = max(st.Used, durable)
	st.Segments = make([]wal.Ref, len(v.segs))
	for i, h := range v.segs {
		ref := h.seg.Ref()
		ref.Limit = h.limit
		if h.limit == 0 && h.seg.Begun() {
			ref.First = h.seg.First()
		}
		if end := h.seg.End(); h.limit == 0 && !h.seg.Compacted() && h.seg.Begun() && end <= durable {
			ref.Limit = end // rotated and synced: recovery checks that all of it exists
		}
		st.Segments[i] = ref
	}
	return st
}

// Update changes the volume's record and makes it durable.
func (v *Volume) Update(change func(*State)) error {
	v.saveMu.Lock()
	defer v.saveMu.Unlock()
	v.stMu.Lock()
	change(&v.state)
	st := v.stateLocked()
	v.stMu.Unlock()
	v.size.Store(st.Size)
	return v.env.Save(&st)
}

// Change changes the volume's record after it was made durable; if that fails, nothing
// has changed. It is for changes that a user asks for. Update is for changes that have
// already happened: later saves include them even if the first one failed.
func (v *Volume) Change(change func(*State)) error {
	v.saveMu.Lock()
	defer v.saveMu.Unlock()
	st := v.State()
	change(&st)
	if err := v.env.Save(&st); err != nil {
		return err
	}
	v.stMu.Lock()
	defer v.stMu.Unlock()
	change(&v.state)
	v.size.Store(v.state.Size)
	return nil
}

// attach durably makes a new segment part of the volume before anything is written to it.
func (v *Volume) attach(seg *wal.Segment) error {
	v.saveMu.Lock()
	defer v.saveMu.Unlock()
	v.stMu.Lock()
	v.segs = append(v.segs, held{seg: seg})
	delete(v.deadAt, seg) // from an earlier use of the file
	st := v.stateLocked()
	v.stMu.Unlock()
	var err error
	if !fault.Is("segment-not-recorded") {
		err = v.env.Save(&st)
	}
	if err != nil {
		v.stMu.Lock()
		for i := range v.segs {
			if v.segs[i].seg == seg {
				v.segs = append(v.segs[:i], v.segs[i+1:]...)
				break
			}
		}
		v.stMu.Unlock()
	}
	return err
}

// Account is what a volume uses, in bytes.
type Account struct {
	Dirty int64 // acknowledged and not in the store; zeroed ranges do not count
	Log   int64 // log segments that the volume holds, including shared ones
	// Oldest is the time of the oldest write that is not in the store, zero if there is
	// none.
	Oldest  time.Time
	Extents int // extents of the overlay
	// Open is the log segments to which more may be appended, bytes; they are in Log.
	Open int64
}

// Account returns what the volume uses.
func (v *Volume) Account() Account {
	v.stMu.Lock()
	var bytes, open int64
	for _, h := range v.segs {
		bytes += int64(h.seg.Size())
		if h.limit == 0 && h.seg.End() == 0 && !h.seg.Compacted() {
			open += int64(h.seg.Size())
		}
	}
	v.stMu.Unlock()
	v.omu.RLock()
	defer v.omu.RUnlock()
	return Account{Dirty: v.dirty, Log: bytes, Oldest: v.oldest, Extents: v.tree.Count(), Open: open}
}

// Ancestors is how many other volumes wrote log segments that this one has inherited.
func (v *Volume) Ancestors() int {
	v.stMu.Lock()
	defer v.stMu.Unlock()
	writers := map[wal.Identity]struct{}{wal.Identity(v.id): {}}
	for _, h := range v.segs {
		writers[h.seg.Writer()] = struct{}{}
	}
	return len(writers) - 1
}

// ShrinkLog ends the volume's log segment, so that what is live of it can be copied
// away, and begins small again: for a volume that is idle.
func (v *Volume) ShrinkLog() error {
	if err := v.Flush(); err != nil { // so that the sync below has nothing to do
		return err
	}
	v.foldMu.Lock()
	defer v.foldMu.Unlock()
	v.wmu.Lock() // Shrink drops the segment to which a writer would append
	err := v.log.Shrink()
	unused := v.unusedSegments()
	v.wmu.Unlock()
	if errors.Is(err, wal.ErrSync) {
		v.Fail(err) // a second sync would succeed, and the writes be gone all the same
	}
	if err != nil || len(unused) == 0 {
		return err
	}
	return v.dropSegments(unused)
}

// unusedSegments are the volume's segments in which nothing was written, and nothing
// will be: the log has just given up all that it had prepared. Under wmu.
func (v *Volume) unusedSegments() (unused []*wal.Segment) {
	v.stMu.Lock()
	defer v.stMu.Unlock()
	for _, h := range v.segs {
		if h.limit == 0 && !h.seg.Compacted() && !h.seg.Begun() && h.seg.End() == 0 {
			unused = append(unused, h.seg)
		}
	}
	return unused
}

// DirtyBytes returns Account's Dirty at low cost.
func (v *Volume) DirtyBytes() int64 {
	v.omu.RLock()
	defer v.omu.RUnlock()
	return v.dirty
}

// Dirty reports whether anything was written that is not in the block map.
func (v *Volume) Dirty() bool {
	v.omu.RLock()
	defer v.omu.RUnlock()
	return v.tree.Count() > 0
}

// Map returns the published block map under the overlay.
func (v *Volume) Map() *blockmap.Map {
	v.omu.RLock()
	defer v.omu.RUnlock()
	return v.base
}

// Fail makes every later request fail with the error. The first call counts.
func (v *Volume) Fail(err error) { v.broken.CompareAndSwap(nil, &brokenState{err}) }

// Err returns the error with which the volume failed, or nil.
func (v *Volume) Err() error {
	if b := v.broken.Load(); b != nil {
		return b.err
	}
	return nil
}

// Close makes everything durable and frees the volume's memory. The log's segments stay
// on the disk for the next Open. Later requests fail.
func (v *Volume) Close() error {
	v.foldMu.Lock()
	defer v.foldMu.Unlock()
	failed := v.Err()
	var err error
	if failed == nil {
		// What the disk did not keep is rewritten here: once the log is closed, it is not
		// known any more what is missing.
		err = v.Flush()
	}
	v.wmu.Lock()
	v.Fail(errClosed)
	err = errors.Join(err, v.log.Close())
	v.wmu.Unlock()
	if failed != nil {
		err = nil // a failed sync was reported when it happened
	}
	v.guard.Wait()
	return err
}

// Discard releases the segments, after Close: the volume is no longer needed here.
func (v *Volume) Discard() {
	v.stMu.Lock()
	segs := v.segs
	v.segs = nil
	v.stMu.Unlock()
	for _, h := range segs {
		h.seg.Release()
	}
}

var errClosed = errs.New(errs.Unavailable, "the volume is not open")
