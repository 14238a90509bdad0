package image

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/paraglide/glide/internal/api"
)

// qcow2 reads the active state of a qcow2 image in the order of the disk.
type qcow2 struct {
	r      io.ReaderAt
	length int64 // of the file
	header
	l1   []byte
	l2   []byte // the table of the cluster at hand
	at   uint64 // L1 index that l2 belongs to
	pos  uint64 // next cluster of the disk
	buf  []byte
	left pieces

	packed  []byte // of a compressed cluster
	inflate io.ReadCloser
	unzstd  *zstd.Decoder
}

// openQcow2 opens the qcow2 image in the first length bytes of r. It ignores internal
// snapshots. Besides buffers of a few MiB, it needs no more memory than the image has
// bytes.
func openQcow2(r io.ReaderAt, length int64) (*qcow2, error) {
	h, err := readHeader(r, length)
	if err != nil {
		return nil, err
	}
	q := &qcow2{r: r, length: length, header: h, at: ^uint64(0)}
	q.l1 = make([]byte, 8*h.l1Need())
	if err := q.read(q.l1, h.l1Off, "its L1 table"); err != nil {
		return nil, err
	}
	q.buf = make([]byte, max(chunk, h.cluster()))
	return q, nil
}

func readError(err error, off uint64) error {
	return fmt.Errorf("read the image at byte %d: %w", off, err)
}

// read fills p from the file.
func (q *qcow2) read(p []byte, off uint64, what string) error {
	if err := inFile(what, off, uint64(len(p)), q.length); err != nil {
		return err
	}
	n, err := q.r.ReadAt(p, int64(off))
	if n < len(p) {
		if err == io.EOF {
			return cut(what, off+uint64(len(p)), int64(off)+int64(n)) // shorter than it was
		}
		return readError(err, off)
	}
	return nil
}

func (q *qcow2) Size() uint64 { return pad(q.size) }

// report completes the report about the image.
func (q *qcow2) report(r Report) func() Report {
	r.Read, r.Padding = r.Length, q.Size()-q.size
	return func() Report { return r }
}

// Next implements api.Source.
func (q *qcow2) Next() (api.Extent, error) {
	for {
		if e, ok := q.left.next(); ok {
			return e, nil
		}
		entry, err := q.find()
		if err != nil {
			return api.Extent{}, err
		}
		off := q.pos << q.clusterBits
		var n uint64
		if entry&flagCompressed != 0 {
			n, err = q.unpack(entry)
			q.pos++
		} else {
			n, err = q.readRun(entry)
		}
		if err != nil {
			return api.Extent{}, err
		}
		n = min(n, q.size-off)
		clear(q.buf[n:pad(n)])
		q.left = pieces{off, q.buf[:pad(n)]}
	}
}

// find moves pos on to the next cluster that holds data, and returns its entry.
func (q *qcow2) find() (uint64, error) {
	last := (q.size + q.cluster() - 1) >> q.clusterBits
	for q.pos < last {
		if i := q.pos >> q.l2Bits(); i != q.at {
			present, err := q.loadL2(i)
			if err != nil {
				return 0, err
			}
			if !present {
				q.pos = (i + 1) << q.l2Bits()
				continue
			}
		}
		entry, err := q.entry(q.pos)
		if err != nil || entry != 0 {
			return entry, err
		}
		q.pos++
	}
	return 0, io.EOF
}

func (q *qcow2) loadL2(i uint64) (present bool, err error) {
	entry := be.Uint64(q.l1[8*i:])
	off := entry & offsetMask
	switch {
	case entry&reservedL1 != 0:
		return false, damaged("entry %d of its L1 table is %#x", i, entry)
	case off == 0:
		return false, nil
	case off&(q.cluster()-1) != 0:
		return false, damaged("L2 table %d lies at byte %d, within a cluster", i, off)
	}
	what := fmt.Sprintf("L2 table %d", i)
	if err := inFile(what, off, q.cluster(), q.length); err != nil {
		return false, err
	}
	if q.l2 == nil {
		q.l2 = make([]byte, q.cluster())
	}
	q.at = ^uint64(0) // until all of it is read
	if err := q.read(q.l2, off, what); err != nil {
		return false, err
	}
	q.at = i
	return true, nil
}

// entry is the checked L2 entry of a cluster in the current table, 0 if it reads as
// zeros.
func (q *qcow2) entry(pos uint64) (uint64, error) {
	e := be.Uint64(q.l2[8*(pos&(1<<q.l2Bits()-1)):])
	if e&flagCompressed != 0 {
		if e&flagCopied != 0 {
			return 0, damaged("the entry of cluster %d is %#x", pos, e)
		}
		return e, nil
	}
	reserved := reservedL2
	if q.version == 3 {
		reserved &^= flagZero
	}
	off := e & offsetMask
	switch {
	case e&reserved != 0:
		return 0, damaged("the entry of cluster %d is %#x", pos, e)
	case off&(q.cluster()-1) != 0:
		return 0, damaged("cluster %d lies at byte %d, within a cluster", pos, off)
	case e&flagZero != 0:
		return 0, nil
	}
	return off, nil
}

// readRun reads the clusters from pos on that are consecutive in the file, up to a
// full buffer, and moves pos past them. Of the disk's last cluster, only the part that
// belongs to the disk must be in the file.
func (q *qcow2) readRun(first uint64) (uint64, error) {
	start, n := q.pos, uint64(0)
	for n+q.cluster() <= uint64(len(q.buf)) && q.pos<<q.clusterBits < q.size && q.pos>>q.l2Bits() == q.at {
		if q.pos > start {
			e, err := q.entry(q.pos)
			if err != nil {
				return 0, err
			}
			if e != first+n { // compressed ones have a flag that no offset has
				break
			}
		}
		q.pos++
		n += q.cluster()
	}
	n = min(n, q.size-start<<q.clusterBits)
	return n, q.read(q.buf[:n], first, fmt.Sprintf("cluster %d", q.pos-1))
}

// unpack decodes a compressed cluster into buf.
func (q *qcow2) unpack(entry uint64) (uint64, error) {
	x := 62 - (q.clusterBits - 8)
	off := entry & (1<<x - 1)
	sectors := entry&(flagCompressed-1)>>x + 1
	n := sectors*512 - off&511
	if off >= uint64(q.length) {
		return 0, cut(fmt.Sprintf("compressed cluster %d", q.pos), off+n, q.length)
	}
	// The last sector may be incomplete in the file: its rest is not used.
	n = min(n, uint64(q.length)-off)
	if uint64(cap(q.packed)) < n {
		q.packed = make([]byte, n)
	}
	packed := q.packed[:n]
	if err := q.read(packed, off, fmt.Sprintf("compressed cluster %d", q.pos)); err != nil {
		return 0, err
	}
	r, err := q.decoder(packed)
	if err == nil {
		_, err = io.ReadFull(r, q.buf[:q.cluster()])
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return 0, damaged("compressed cluster %d at byte %d ends early", q.pos, off)
	}
	if err != nil {
		return 0, damaged("compressed cluster %d at byte %d: %w", q.pos, off, err)
	}
	return q.cluster(), nil
}

// zstdWindow bounds a frame's window, in bytes: four of the largest clusters.
const zstdWindow = 8 << 20

func (q *qcow2) decoder(packed []byte) (io.Reader, error) {
	src := bytes.NewReader(packed)
	if q.compression == compressionZlib { // without zlib's header, in spite of the name
		if q.inflate == nil {
			q.inflate = flate.NewReader(src)
			return q.inflate, nil
		}
		return q.inflate, q.inflate.(flate.Resetter).Reset(src, nil)
	}
	if q.unzstd == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderMaxMemory(zstdWindow), zstd.WithDecodeBuffersBelow(0))
		if err != nil {
			return nil, err
		}
		q.unzstd = d
	}
	return q.unzstd, q.unzstd.Reset(src)
}
