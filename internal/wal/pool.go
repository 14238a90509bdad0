package wal

import (
	"errors"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/datadir"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/wal/internal/cipher"
	"github.com/paraglide/glide/internal/wal/internal/segfile"
	"github.com/paraglide/glide/internal/wal/internal/window"
)

// Options configure a Pool.
type Options struct {
	FS  vfs.FS // nil: the machine's
	Dir string // must exist
	// SegmentBytes is the size of a busy volume's segments; 0 means 64 MiB.
	SegmentBytes uint32
	// FirstBytes is the size of a volume's first segment. It is SegmentBytes divided by a
	// power of two. Each later segment is as long as all before it together, up to
	// SegmentBytes. 0 means SegmentBytes: all segments have one size.
	FirstBytes uint32
	// Limit bounds the total size of all segments in bytes; 0 means no limit.
	Limit int64
	// Spares is how many zeroed segments of SegmentBytes a background goroutine keeps
	// ready. It also keeps as many bytes of first segments, but at most firstSpares of
	// them. With 0, segments are created when they are needed.
	Spares int
	// Reserve is how many of the spares only cleaning may take, so that it can free space
	// on a full disk.
	Reserve int
	// Pace is called between the parts of a spare that is zeroed in the background, to
	// leave disk bandwidth to others; nil: no pause.
	//
	// glide:blocks
	Pace func()
	// Rand returns random numbers, for incarnations.
	Rand func() uint64
	// Local seals what is written from now on; nil: it is plain. What is plain can be read
	// with it, and what is sealed cannot without it.
	Local *seal.Local
}

// Stats are counters since the start.
type Stats struct {
	Syncs   atomic.Uint64 // fdatasync calls
	Bytes   atomic.Uint64 // appended by guests, headers included
	Cleaned atomic.Uint64 // copied by cleaning
	Reused  atomic.Uint64 // segments recycled
	Damaged atomic.Uint64 // how often bytes did not match their checksum
}

// Pool owns the segment files of one host. It may be used concurrently.
type Pool struct {
	opts  Options
	dir   vfs.File
	Stats Stats

	// table holds every open segment by number. It is replaced under mu and never
	// changed. Readers of places load it without a lock.
	table atomic.Pointer[[]*Segment]

	mu      sync.Mutex            // glide:nonblocking
	found   map[*Segment]index    // of segments read at the start; Settle drops it
	spares  map[uint32][]*Segment // by size
	files   int64                 // bytes of all segments
	spare   int64                 // bytes of spares
	closed  bool
	settled bool          // volumes have claimed the segments that they need
	stop    chan struct{} // closed by Close
	fill    chan struct{}
	doubted chan *Segment  // held segments that are to be verified
	filled  sync.WaitGroup // background goroutines
}

// Open finds the segments in opts.Dir. They stay unclaimed until Claim. Settle turns
// those that nobody claimed into spares.
func Open(opts Options) (*Pool, error) {
	if opts.FS == nil {
		opts.FS = vfs.Default
	}
	if opts.SegmentBytes == 0 {
		opts.SegmentBytes = 64 << 20
	}
	if opts.SegmentBytes < minSegment || opts.SegmentBytes > maxSegment || opts.SegmentBytes%pageSize != 0 {
		return nil, errs.New(errs.Invalid, "log segments of %d bytes: the size must be a multiple of 4096 from %d to %d", opts.SegmentBytes, minSegment, maxSegment)
	}
	if opts.FirstBytes == 0 {
		opts.FirstBytes = opts.SegmentBytes
	}
	if n := opts.SegmentBytes / max(opts.FirstBytes, 1); opts.FirstBytes < minSegment || n*opts.FirstBytes != opts.SegmentBytes || n&(n-1) != 0 {
		return nil, errs.New(errs.Invalid, "first log segments of %d bytes: a power of two times that is to be %d", opts.FirstBytes, opts.SegmentBytes)
	}
	p := &Pool{opts: opts, spares: map[uint32][]*Segment{}, fill: make(chan struct{}, 1), doubted: make(chan *Segment), stop: make(chan struct{}), found: map[*Segment]index{}}
	var err error
	if p.dir, err = opts.FS.OpenDir(opts.Dir); err != nil {
		return nil, fmt.Errorf("open the log directory: %w", err)
	}
	if err := p.find(); err != nil {
		p.closeFiles()
		return nil, err
	}
	return p, nil
}

func (p *Pool) path(n uint32) string {
	return p.opts.FS.PathJoin(p.opts.Dir, fmt.Sprintf("%d.seg", n))
}

// find opens every segment file in the directory.
func (p *Pool) find() error {
	names, err := p.opts.FS.List(p.opts.Dir)
	if err != nil {
		return fmt.Errorf("list the log directory: %w", err)
	}
	table := []*Segment{}
	p.table.Store(&table)
	for _, name := range names {
		base, isSeg := strings.CutSuffix(name, ".seg")
		n, err := strconv.ParseUint(base, 10, 24)
		if !isSeg || err != nil {
			continue
		}
		s, err := p.openSegment(uint32(n))
		if err != nil {
			return err
		}
		p.enter(s)
	}
	return nil
}

// openSegment opens a file found at the start. If its header is not valid, the segment
// gets no incarnation, so that no Claim can match it.
func (p *Pool) openSegment(n uint32) (*Segment, error) {
	s := &Segment{pool: p, number: n, fd: -1, old: p.opts.Local != nil}
	f, err := p.opts.FS.OpenReadWrite(p.path(n), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p.path(n), err)
	}
	s.setFile(f)
	page := make([]byte, pageSize)
	if st, err := f.Stat(); err == nil && st.Size() <= maxSegment {
		s.size = uint32(st.Size()) &^ (pageSize - 1)
	}
	if s.size < minSegment || s.readAt(page, 0) != nil {
		return s, nil
	}
	h, err := segfile.DecodeHeader(page)
	if errs.KindOf(err) == errs.Unsupported {
		return nil, fmt.Errorf("%s: %w", s.name(), err)
	}
	if err == nil && h.Number == n && h.Size == s.size && h.Kind != kindSpare {
		c, err := cipher.New(p.opts.Local, &h)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name(), err)
		}
		s.old = s.old && c == nil
		s.use(&h, c)
		s.strays.Store(1) // all of it is on the disk, and nothing is verified yet
	}
	return s, nil
}

// enter adds the segment to the table.
func (p *Pool) enter(s *Segment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := *p.table.Load()
	table := make([]*Segment, max(len(old), int(s.number)+1))
	copy(table, old)
	table[s.number] = s
	p.table.Store(&table)
	p.files += int64(s.size)
}

// Claim returns the segment that metadata refers to, with one more hold. If the segment
// is missing or has another incarnation, that is corruption, because its content was
// acknowledged.
func (p *Pool) Claim(r Ref) (*Segment, error) {
	table := *p.table.Load()
	if int(r.Number) >= len(table) || table[r.Number] == nil {
		return nil, errs.New(errs.Corrupt, "log segment %s is missing, though a volume needs it", p.path(r.Number))
	}
	s := table[r.Number]
	if s.incarnation != r.Incarnation || s.kind == kindSpare || r.Sealed != (s.cipher != nil) {
		return nil, errs.New(errs.Corrupt, "log segment %s does not have the header that it was given: it is damaged or was replaced", p.path(r.Number))
	}
	s.Hold()
	return s, nil
}

// Settle is called when every volume has claimed the segments that it needs. The other
// segments become spares or are removed, and background work begins.
func (p *Pool) Settle() {
	p.mu.Lock()
	p.found = nil
	p.settled = true
	p.mu.Unlock()
	for _, s := range *p.table.Load() {
		if s != nil && s.holders.Load() == 0 {
			p.recycle(s)
		}
	}
	p.filled.Add(1)
	go p.keepTrust()
	if p.opts.Spares > 0 {
		p.filled.Add(1)
		go p.keepSpares()
		p.wantSpare()
	}
}

// sizeFor returns the size of the shortest segment with room for this many bytes of
// records and index, but at most SegmentBytes.
func (p *Pool) sizeFor(bytes uint64) uint32 {
	size := p.opts.FirstBytes
	for size < p.opts.SegmentBytes && uint64(size) < bytes+2*pageSize {
		size *= 2
	}
	return size
}

// take returns a segment of this size with one hold and a durable header that names the
// writer.
func (p *Pool) take(kind byte, writer Identity, size uint32) (*Segment, error) {
	s, err := p.takeSpare(kind, size)
	if err != nil {
		return nil, err
	}
	inc := p.opts.Rand()
	if inc == 0 {
		inc = 1
	}
	h := header{Kind: kind, Incarnation: inc, Writer: writer, Number: s.number, Size: s.size, Seal: p.opts.Local.Mark()}
	c, err := cipher.New(p.opts.Local, &h)
	if err == nil {
		_, err = s.file.WriteAt(h.Encode(), 0)
	}
	if err == nil {
		err = s.file.SyncData()
	}
	if err != nil {
		p.recycle(s)
		return nil, p.diskError("prepare "+s.name(), err)
	}
	s.use(&h, c)
	s.holders.Store(1)
	p.wantSpare()
	return s, nil
}

// cleaningExtra is by how many segments cleaning may exceed the limit: it needs space
// before it frees space.
const cleaningExtra = 2

// takeSpare takes a spare segment, or creates one. Small ones are zeroed at once, which
// takes less time than their syncs.
func (p *Pool) takeSpare(kind byte, size uint32) (*Segment, error) {
	reserve, extra := 0, 0
	if size == p.opts.SegmentBytes {
		reserve = p.opts.Reserve
	}
	if kind == kindCompacted {
		reserve, extra = 0, cleaningExtra
	}
	if s := p.popSpare(size, reserve); s != nil {
		return s, nil
	}
	s, err := p.create(size, size <= zeroedAtOnce && size < p.opts.SegmentBytes, extra)
	if errs.KindOf(err) == errs.NoSpace && kind == kindCompacted && size < p.opts.SegmentBytes {
		// The disk is full: the long segment that is reserved for cleaning will do.
		if s := p.popSpare(p.opts.SegmentBytes, 0); s != nil {
			return s, nil
		}
	}
	return s, err
}

// zeroedAtOnce is the largest segment that is zeroed by the caller that needs it, in
// bytes.
const zeroedAtOnce = 4 << 20

// popSpare takes a spare of this size. It returns nil unless there are more than reserve.
func (p *Pool) popSpare(size uint32, reserve int) *Segment {
	p.mu.Lock()
	defer p.mu.Unlock()
	have := p.spares[size]
	n := len(have)
	if n <= reserve {
		return nil
	}
	s := have[n-1]
	p.spares[size] = have[:n-1]
	p.spare -= int64(size)
	p.Stats.Reused.Add(1)
	return s
}

// pushSpare adds a spare. Under mu.
func (p *Pool) pushSpare(s *Segment) {
	p.spares[s.size] = append(p.spares[s.size], s)
	p.spare += int64(s.size)
}

// create creates a segment file. zeroed writes it full of zeros, so that later syncs need
// not change the file system's metadata; otherwise the space is only reserved.
func (p *Pool) create(size uint32, zeroed bool, extra int) (*Segment, error) {
	n, err := p.reserve(size, extra)
	if err != nil {
		return nil, err
	}
	s := &Segment{pool: p, number: n, size: size, fd: -1}
	f, err := p.opts.FS.Create(p.path(n), vfs.WriteCategoryUnspecified)
	if err != nil {
		p.unreserve(n, size)
		return nil, p.diskError("create "+p.path(n), err)
	}
	s.setFile(f)
	if err := s.allocate(zeroed); err != nil {
		_ = f.Close()
		_ = p.opts.FS.Remove(p.path(n))
		p.unreserve(n, size)
		return nil, p.diskError("reserve space for "+p.path(n), err)
	}
	p.mu.Lock()
	table := append([]*Segment(nil), *p.table.Load()...)
	table[n] = s
	p.table.Store(&table)
	p.mu.Unlock()
	return s, nil
}

func (s *Segment) allocate(zeroed bool) error {
	if s.fd >= 0 {
		if err := unix.Fallocate(s.fd, 0, 0, int64(s.size)); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
	}
	if zeroed || s.fd < 0 {
		if err := s.zero(); err != nil {
			return err
		}
	}
	if err := s.file.Sync(); err != nil {
		return err
	}
	return s.pool.dir.Sync()
}

// zero fills the segment with zeros and syncs after each part, so that a guest's sync
// waits for one part at most.
func (s *Segment) zero() error {
	zeros := make([]byte, min(window.Size, s.size))
	for pos := uint32(0); pos < s.size; pos += uint32(len(zeros)) {
		if _, err := s.file.WriteAt(zeros[:min(uint32(len(zeros)), s.size-pos)], int64(pos)); err != nil {
			return err
		}
		if s.pool.opts.Pace != nil {
			if err := s.file.SyncData(); err != nil {
				return err
			}
			s.pool.opts.Pace()
		}
	}
	return nil
}

// reserve counts a new file and returns the lowest free number.
func (p *Pool) reserve(size uint32, extra int) (uint32, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, errs.New(errs.Unavailable, "the log is closed")
	}
	if p.opts.Limit > 0 && p.files+int64(size)-int64(extra)*int64(p.opts.SegmentBytes) > p.opts.Limit {
		return 0, errs.New(errs.NoSpace, "the log is at its limit of %d bytes (--wal-limit)", p.opts.Limit)
	}
	old := *p.table.Load()
	n := 0
	for n < len(old) && old[n] != nil {
		n++
	}
	table := make([]*Segment, max(len(old), n+1))
	copy(table, old)
	table[n] = &Segment{pool: p, number: uint32(n), fd: -1} // nothing refers to it yet
	p.table.Store(&table)
	p.files += int64(size)
	return uint32(n), nil
}

func (p *Pool) unreserve(n, size uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	table := append([]*Segment(nil), *p.table.Load()...)
	table[n] = nil
	p.table.Store(&table)
	p.files -= int64(size)
}

// How many spares of each size recycling keeps; the others are returned to the disk.
const (
	keptSpares  = 16 // of SegmentBytes, and of FirstBytes
	keptBetween = 2  // of each other size
)

// firstSpares is how many first segments are kept ready.
const firstSpares = 8

// keeps returns how many spares of this size recycling keeps.
func (p *Pool) keeps(size uint32) int {
	switch {
	case size == p.opts.SegmentBytes:
		return max(keptSpares, p.opts.Spares+p.opts.Reserve)
	case size == p.opts.FirstBytes:
		return keptSpares
	case size > p.opts.FirstBytes && size < p.opts.SegmentBytes && p.sizeFor(uint64(size)-2*pageSize) == size:
		return keptBetween
	}
	return 0
}

// recycle turns a segment without holders into a spare, or removes it.
func (p *Pool) recycle(s *Segment) {
	p.mu.Lock()
	if !p.settled {
		p.mu.Unlock()
		return // another volume may still claim it
	}
	s.sums.Clear()
	s.unchecked.Store(nil)
	fits := p.opts.Limit == 0 || p.files <= p.opts.Limit
	if !p.closed && !s.old && len(p.spares[s.size]) < p.keeps(s.size) && fits {
		p.pushSpare(s)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	// The name goes first: after a crash in between, nobody claims the file.
	_ = p.opts.FS.Remove(s.name())
	_ = s.file.Close()
	p.unreserve(s.number, s.size)
}

func (p *Pool) wantSpare() {
	select {
	case p.fill <- struct{}{}:
	default:
	}
}

// keepSpares creates zeroed segments until enough are ready. A full disk is not an error
// here; the next take reports it.
func (p *Pool) keepSpares() {
	defer p.filled.Done()
	for {
		select {
		case <-p.fill:
		case <-p.stop:
			return
		}
		for size := p.wanted(); size != 0; size = p.wanted() {
			s, err := p.create(size, true, 0)
			if err != nil {
				break
			}
			p.mu.Lock()
			p.pushSpare(s)
			p.mu.Unlock()
		}
	}
}

// wanted returns the size of the spare that is most needed, or 0 if none is.
func (p *Pool) wanted() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return 0
	case p.opts.FirstBytes < p.opts.SegmentBytes && len(p.spares[p.opts.FirstBytes]) < firstSpares:
		return p.opts.FirstBytes
	case len(p.spares[p.opts.SegmentBytes]) < p.opts.Spares+p.opts.Reserve:
		return p.opts.SegmentBytes
	}
	return 0
}

// Used returns the bytes of the segments in use, and of all segment files.
func (p *Pool) Used() (used, files int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.files - p.spare, p.files
}

// Limit returns the limit on the total size of all segments in bytes, or 0.
func (p *Pool) Limit() int64 { return p.opts.Limit }

// CompactedBytes returns the least size of the segments to which this many live bytes are
// copied.
func (p *Pool) CompactedBytes(live int64) int64 {
	whole := live / int64(p.opts.SegmentBytes) * int64(p.opts.SegmentBytes)
	if live > whole {
		whole += int64(p.sizeFor(uint64(live - whole)))
	}
	return whole
}

// SegmentBytes returns the size of a busy volume's segments.
func (p *Pool) SegmentBytes() uint32 { return p.opts.SegmentBytes }

// Segment returns the segment in which a place lies.
func (p *Pool) Segment(pl extent.Place) *Segment { return (*p.table.Load())[NumberOf(pl)] }

// Close closes the files. Nothing may use the pool afterwards.
func (p *Pool) Close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	close(p.stop)
	p.mu.Unlock()
	p.filled.Wait()
	p.closeFiles()
}

func (p *Pool) closeFiles() {
	if t := p.table.Load(); t != nil {
		for _, s := range *t {
			if s != nil && s.file != nil {
				_ = s.file.Close()
			}
		}
	}
	_ = p.dir.Close()
}

// diskError gives the error of a full disk its kind.
func (p *Pool) diskError(what string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return errs.New(errs.NoSpace, "%s: %w", what, err)
	}
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return errs.New(errs.ReadOnly, "%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Missing names the segments in use whose files are gone from the directory or were
// replaced there.
func (p *Pool) Missing() []string {
	var gone []string
	p.Each(func(s *Segment) {
		if datadir.Gone(p.opts.FS, s.name(), s.file) {
			gone = append(gone, s.name())
		}
	})
	return gone
}

// Each calls fn for every segment in use, in the order of their numbers.
func (p *Pool) Each(fn func(*Segment)) {
	segs := append([]*Segment(nil), *p.table.Load()...)
	sort.Slice(segs, func(i, j int) bool { return segs[i] != nil && (segs[j] == nil || segs[i].number < segs[j].number) })
	for _, s := range segs {
		if s != nil && s.holders.Load() > 0 {
			fn(s)
		}
	}
}
