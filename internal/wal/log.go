package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/wal/internal/vectored"
)

// Written says where a part of an append lies now.
type Written struct {
	Off, Len uint64 // on the volume
	Place    extent.Place
}

// Log is the appending end of one volume's log. The volume makes one append at a time;
// Sync may be called concurrently.
//
// Invariants: durable <= last. In the unsynced segments and the current one, every record
// with a number <= durable is on the disk.
type Log struct {
	pool   *Pool
	writer Identity
	// attach durably adds the segment to the volume's log, in its metadata. It is called
	// before the first record is written there.
	//
	// glide:blocks
	attach func(*Segment) error

	mu       sync.Mutex // appends, rotation
	cur      *Segment
	pos      uint32     // position of the next record
	index    []byte     // index of the current segment, including queued records
	indexed  int        // length of index without queued records
	seq      uint64     // newest number given to a record
	wrote    uint64     // newest number in a file; less than seq while records are queued
	ends     uint64     // newest number that ends a write, including queued ones
	whole    uint64     // newest number that ends a write and is in a file
	torn     error      // see ErrTorn
	unsynced []*Segment // rotated segments that have not been synced since
	iov      []unix.Iovec
	queued   uint32 // bytes in iov
	heads    []byte // headers of payloads without room in front of them
	sealed   []byte // queued records of a sealed segment
	written  []Written
	taken    uint64        // bytes of the segments since the log is not idle any more
	need     uint64        // what the next segment must have room for
	reserved []*Segment    // segments prepared for a long write, used in this order
	next     chan prepared // a segment prepared in advance, used after those

	// last is the newest number that ends a write whose records were all appended. So
	// neither last nor durable is ever in the middle of a write of several records.
	last atomic.Uint64

	syncMu  sync.Mutex // glide:nonblocking
	synced  sync.Cond
	syncing bool
	failed  error         // a sync failed, and Rewrite has not repaired it
	durable atomic.Uint64 // written under syncMu

	indexing sync.WaitGroup // segments whose index is written in the background
}

// NewLog returns a log that continues after sequence number last. Everything through last
// is durable. For attach see Log.
func NewLog(p *Pool, writer Identity, last uint64, attach func(*Segment) error) *Log {
	l := &Log{pool: p, writer: writer, attach: attach, seq: last, wrote: last, ends: last, whole: last}
	l.synced.L = &l.syncMu
	l.last.Store(last)
	l.durable.Store(last)
	return l
}

// Last returns the newest appended sequence number. Durable returns the number through
// which everything is known to be on the disk.
func (l *Log) Last() uint64    { return l.last.Load() }
func (l *Log) Durable() uint64 { return l.durable.Load() }

const maxIov = 512

// maxParts exceeds the number of records of one write in a segment.
const maxParts = 6

// ErrTorn marks the error of a log that has a part of a write in its files and could not
// write the rest. Nothing may follow that part: if the segment with the missing rest were
// later gone or cleaned, the write would look whole. Recovery drops it from the end of
// the log.
var ErrTorn = errors.New("a part of a write is in the log, and the rest cannot be written")

// Append logs one write per frame: frames[i][HeaderSize:] at offs[i]. It overwrites the
// room in front of the payload with the record's header. The result is valid until the
// next call. On an error, the result names the whole writes that were written; the others
// were not.
func (l *Log) Append(offs []uint64, frames [][]byte) ([]Written, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn != nil {
		return nil, l.torn
	}
	l.begin()
	for i, f := range frames {
		if err := l.add(offs[i], f); err != nil {
			return l.flushQueue(err)
		}
	}
	return l.flushQueue(nil)
}

// AppendZero logs that a range of the volume reads as zeros.
func (l *Log) AppendZero(off, length uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn != nil {
		return l.torn
	}
	l.begin()
	rec := make([]byte, HeaderSize+zeroPayload)
	binary.LittleEndian.PutUint64(rec[HeaderSize:], length)
	err := l.room(zeroPayload, true)
	if err == nil {
		l.record(rec[:HeaderSize], rec[HeaderSize:], flagZero, off)
	}
	_, err = l.flushQueue(err)
	return err
}

func (l *Log) begin() {
	l.written = l.written[:0]
	l.heads = l.heads[:0]
	l.iov = l.iov[:0]
	l.queued = 0
}

// add queues the record of one write. If the write is long compared with a segment, add
// splits it into several records; recovery takes all of them or none.
func (l *Log) add(off uint64, frame []byte) error {
	head, body := frame[:HeaderSize], frame[HeaderSize:]
	longest := int(l.pool.opts.SegmentBytes / 4)
	l.expect(len(body))
	if len(body) > longest {
		if err := l.roomForAll(len(body), longest); err != nil {
			return err
		}
	}
	for first := true; ; first = false {
		part := body[:min(len(body), longest)]
		body = body[len(part):]
		var flags uint32
		if len(body) > 0 {
			flags |= flagMore
		}
		if !first {
			flags |= flagContinue
			head = l.spareHead()
		}
		if err := l.room(uint32(len(part))+l.pool.iv(), false); err != nil {
			return err
		}
		pos := l.pos + l.queued
		l.record(head, part, flags, off)
		l.written = append(l.written, Written{off, uint64(len(part)), l.cur.place(pos)})
		off += uint64(len(part))
		if len(body) == 0 {
			return nil
		}
	}
}

// expect makes the next segment long enough for a write like this one.
func (l *Log) expect(length int) {
	if n := min(uint64(length)*9/8, uint64(l.pool.opts.SegmentBytes)); n > l.need {
		l.need = n
	}
}

// roomForAll makes sure that once some records of a long write are in a file, only the
// writing itself can fail. It prepares all segments that the write needs. Each record
// then goes to its segment at once.
func (l *Log) roomForAll(length, longest int) error {
	if len(l.iov)+maxParts*4 > maxIov {
		if err := l.write(); err != nil {
			return err
		}
	}
	end, index, more := uint64(l.pos+l.queued), uint64(len(l.index)), 0
	room := uint64(l.pool.opts.SegmentBytes)
	if l.cur == nil {
		end = room
	} else {
		room = uint64(l.cur.size)
	}
	for ; length > 0; length -= longest {
		n, head := uint64(size(uint32(min(length, longest))+l.pool.iv())), uint64(HeaderSize+l.pool.iv())
		if capacity(uint32(end+n), uint32(index+head)) > room {
			end, index, room = pageSize, 0, uint64(l.pool.opts.SegmentBytes)
			more++
		}
		end, index = end+n, index+head
	}
	if more > 0 {
		if err := l.dropShort(room); err != nil {
			return err
		}
	}
	return l.reserve(more)
}

// spareHead returns memory for a header. Queued headers must not move.
func (l *Log) spareHead() []byte {
	if len(l.heads)+HeaderSize > cap(l.heads) {
		l.heads = make([]byte, 0, 64*HeaderSize)
	}
	n := len(l.heads)
	l.heads = l.heads[:n+HeaderSize]
	return l.heads[n:]
}

// record signs and queues a record. There must be room for it.
func (l *Log) record(head, body []byte, flags uint32, off uint64) {
	l.seq++
	if l.cur.cipher != nil && flags&flagZero == 0 {
		head, body = l.sealInto(body)
	}
	stored := uint32(len(head) - HeaderSize + len(body))
	putHeader(head, stored, flags, off, l.seq, l.durable.Load())
	var crc uint32
	if flags&flagZero == 0 {
		crc = l.cur.sum(l.pos+l.queued, off, head, body)
	} else {
		crc = crc32.Update(crc32.Update(l.cur.seed, castagnoli, head[4:]), castagnoli, body)
	}
	binary.LittleEndian.PutUint32(head, crc)
	if invariants.Enabled {
		pos := l.pos + l.queued
		invariants.Check(pos&3 == 0 && pos >= pageSize && uint64(pos)+uint64(size(stored)) <= uint64(l.cur.size), "a record of %d bytes at %d in a segment of %d", stored, pos, l.cur.size)
		invariants.Check(l.seq > l.wrote && l.whole <= l.wrote && l.last.Load() <= l.whole && l.durable.Load() <= l.last.Load(), "record %d after %d in a file, %d whole, %d given out, %d durable",
			l.seq, l.wrote, l.whole, l.last.Load(), l.durable.Load())
	}
	l.queue(head)
	l.queue(body)
	if flags&flagMore == 0 {
		l.ends = l.seq
	}
	l.index = append(l.index, head...)
	if flags&flagZero != 0 {
		l.index = append(l.index, body...)
	}
	if n := len(body) & 3; n != 0 {
		l.queue(zeroPage[:4-n])
	}
}

var zeroPage [pageSize]byte

// queue adds bytes to the next write. Bytes that follow the last ones in memory (requests
// as a client sent them) extend the last entry.
func (l *Log) queue(b []byte) {
	l.queued += uint32(len(b))
	if n := len(l.iov); n > 0 && l.cur.fd >= 0 {
		v := &l.iov[n-1]
		if uintptr(unsafe.Pointer(v.Base))+uintptr(v.Len) == uintptr(unsafe.Pointer(unsafe.SliceData(b))) {
			v.Len += uint64(len(b))
			return
		}
	}
	l.iov = append(l.iov, unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
}

// room makes sure that a record fits after the queued ones. If needed, it writes the
// queue and takes another segment.
func (l *Log) room(payload uint32, zero bool) error {
	index := uint32(len(l.index)) + HeaderSize
	if zero {
		index += zeroPayload
	} else {
		index += l.pool.iv()
	}
	if l.cur != nil && capacity(l.pos+l.queued+size(payload), index) <= uint64(l.cur.size) {
		if len(l.iov)+4 > maxIov {
			return l.write()
		}
		return nil
	}
	if err := l.write(); err != nil {
		return err
	}
	return l.rotate(capacity(pageSize+size(payload), l.pool.longestEntry()))
}

// flushQueue writes the queue and returns the parts that were written.
func (l *Log) flushQueue(err error) ([]Written, error) {
	if werr := l.write(); werr != nil {
		err = werr
	}
	if n := l.wrote - l.whole; n > 0 {
		l.written = l.written[:len(l.written)-int(n)]
		l.torn = errs.New(errs.Internal, "%w: %w", ErrTorn, err)
		err = l.torn
	}
	l.last.Store(l.whole)
	if l.sealed != nil {
		l.freeSealed()
	}
	return l.written, err
}

// write writes the queue to the end of the segment. It fills the rest of the last page
// with zeros, so that the file system never has to read a page before it changes it. The
// next append overwrites these zeros.
func (l *Log) write() error {
	if l.queued == 0 {
		return nil
	}
	end := l.pos + l.queued
	if pad := pageUp(end) - end; pad > 0 {
		l.iov = append(l.iov, unix.Iovec{Base: &zeroPage[0], Len: uint64(pad)})
	}
	if err := l.cur.writev(l.iov, l.pos); err != nil {
		// The numbers and places of the queue are free again: the next append uses them,
		// over anything that reached the file.
		l.dropQueue()
		return err
	}
	l.pool.Stats.Bytes.Add(uint64(l.queued))
	l.writeBehind(end)
	l.pos = end
	if !l.cur.begun.Load() {
		l.cur.first.Store(l.wrote + 1)
		l.cur.begun.Store(true)
	}
	l.wrote, l.whole, l.indexed = l.seq, l.ends, len(l.index)
	l.cur.keepSums()
	l.iov = l.iov[:0]
	l.queued = 0
	if l.next == nil && len(l.reserved) == 0 && l.pos > l.cur.prepareAt() {
		l.prepare()
	}
	return nil
}

// Writeback of long writes starts while more of them arrive, one stretch at a time.
// Unlike a file, a log is never overwritten in memory, so this writes nothing twice, and
// the next flush has less left to do.
const (
	behindBytes  = 8 << 20
	behindRecord = 64 << 10 // an append of at least this many bytes counts as long
)

// writeBehind starts the writeback of a stretch that has become full. end is the current
// end of the records.
func (l *Log) writeBehind(end uint32) {
	if l.queued < behindRecord || l.pos/behindBytes == end/behindBytes || l.cur.fd < 0 || len(l.iov) > 16 {
		return
	}
	s, to := l.cur, end/behindBytes*behindBytes
	s.Hold()
	go func() {
		// This only starts writeback: errors show in the sync.
		_ = unix.SyncFileRange(s.fd, int64(to-behindBytes), behindBytes, unix.SYNC_FILE_RANGE_WRITE)
		s.Release()
	}()
}

// dropQueue discards the records that were not written, with their numbers and places.
func (l *Log) dropQueue() {
	l.seq, l.ends, l.index = l.wrote, l.whole, l.index[:l.indexed]
	for n := len(l.written); n > 0; n-- {
		w := l.written[n-1]
		if NumberOf(w.Place) != l.cur.number || uint32(w.Place) < l.pos {
			break
		}
		l.written = l.written[:n-1]
	}
	l.cur.dropSums()
	l.iov = l.iov[:0]
	l.queued = 0
}

func (s *Segment) writev(iov []unix.Iovec, pos uint32) error {
	if s.fd < 0 {
		var all []byte
		for _, v := range iov {
			all = append(all, unsafe.Slice(v.Base, v.Len)...)
		}
		if _, err := s.file.WriteAt(all, int64(pos)); err != nil {
			return s.pool.diskError("append to "+s.name(), err)
		}
		return nil
	}
	if err := vectored.Write(s.fd, iov, pos); err != nil {
		return s.pool.diskError("append to "+s.name(), err)
	}
	return nil
}
