package image

import (
	"io"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
)

// writeQcow2 writes src to w, which must be empty, as a qcow2 image of version 3 in
// which holes take no room. The header is written last, so an unfinished file is not an
// image.
func writeQcow2(w io.WriterAt, src api.Source) error {
	q, err := newQcow2Writer(w, src.Size())
	if err != nil {
		return err
	}
	for {
		e, err := src.Next()
		if err == io.EOF {
			return q.finish()
		}
		if err != nil {
			return err
		}
		left := pieces{e.Off, e.Data}
		for e, ok := left.next(); ok; e, ok = left.next() {
			if err := q.write(e.Data, e.Off); err != nil {
				return err
			}
		}
	}
}

// qcow2Writer writes in this order: header, L1 table, then the L2 tables and their
// clusters as they come, then the reference counts.
type qcow2Writer struct {
	w io.WriterAt
	header
	l1   []uint64
	l2   []uint64
	at   uint64 // L1 index that l2 belongs to, when it has a place
	next uint64 // end of the file, bytes
}

const (
	refcountOrder = 4 // 16 bits each
	usualCluster  = 16
)

func newQcow2Writer(w io.WriterAt, size uint64) (*qcow2Writer, error) {
	q := &qcow2Writer{w: w, header: header{version: 3, clusterBits: usualCluster, size: size}, at: ^uint64(0)}
	for q.l1Need() > maxL1 {
		if q.clusterBits++; q.clusterBits > maxCluster {
			return nil, errs.New(errs.Unsupported, "a qcow2 image cannot hold a disk of %d bytes: export it raw", size)
		}
	}
	q.l1Len, q.l1Off = uint32(q.l1Need()), q.cluster()
	q.l1, q.l2 = make([]uint64, q.l1Len), make([]uint64, 1<<q.l2Bits())
	q.next = q.l1Off + q.clusters(8*uint64(q.l1Len))
	return q, nil
}

// clusters is n rounded up to whole clusters, bytes.
func (q *qcow2Writer) clusters(n uint64) uint64 { return (n + q.cluster() - 1) &^ (q.cluster() - 1) }

// take allocates a cluster at the end of the file.
func (q *qcow2Writer) take() uint64 {
	off := q.next
	q.next += q.cluster()
	return off
}

// write writes p at off of the disk, after everything written before.
func (q *qcow2Writer) write(p []byte, off uint64) error {
	for len(p) > 0 {
		pos, within := off>>q.clusterBits, off&(q.cluster()-1)
		if i := pos >> q.l2Bits(); i != q.at {
			if err := q.flushL2(); err != nil {
				return err
			}
			q.at = i
			q.l1[i] = q.take() | flagCopied
		}
		slot := &q.l2[pos&(1<<q.l2Bits()-1)]
		if *slot == 0 {
			*slot = q.take() | flagCopied
		}
		n := min(uint64(len(p)), q.cluster()-within)
		if err := q.put(p[:n], *slot&offsetMask+within); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

func (q *qcow2Writer) put(p []byte, off uint64) error {
	if _, err := q.w.WriteAt(p, int64(off)); err != nil {
		return writeError(err)
	}
	return nil
}

func (q *qcow2Writer) putTable(table []uint64, off uint64) error {
	b := make([]byte, q.clusters(8*uint64(len(table))))
	for i, e := range table {
		be.PutUint64(b[8*i:], e)
	}
	return q.put(b, off)
}

// flushL2 writes the current L2 table: the disk is written in order, so the table is
// complete.
func (q *qcow2Writer) flushL2() error {
	if q.at == ^uint64(0) {
		return nil
	}
	off := q.l1[q.at] & offsetMask
	err := q.putTable(q.l2, off)
	clear(q.l2)
	return err
}

func (q *qcow2Writer) finish() error {
	if err := q.flushL2(); err != nil {
		return err
	}
	if err := q.putTable(q.l1, q.l1Off); err != nil {
		return err
	}
	table, tableLen, err := q.putRefcounts()
	if err != nil {
		return err
	}
	b := make([]byte, q.cluster())
	be.PutUint32(b, qcow2Magic)
	be.PutUint32(b[4:], q.version)
	be.PutUint32(b[20:], uint32(q.clusterBits))
	be.PutUint64(b[24:], q.size)
	be.PutUint32(b[36:], q.l1Len)
	be.PutUint64(b[40:], q.l1Off)
	be.PutUint64(b[48:], table)
	be.PutUint32(b[56:], uint32(tableLen/q.cluster()))
	be.PutUint32(b[96:], refcountOrder)
	be.PutUint32(b[100:], headerV3)
	return q.put(b, 0)
}

// putRefcounts appends reference counts of one for every cluster, including their own,
// and returns the place and length of the refcount table.
func (q *qcow2Writer) putRefcounts() (table, tableLen uint64, err error) {
	perBlock := q.cluster() * 8 >> refcountOrder
	var blocks, total uint64
	for { // more blocks are more clusters to count
		total = (q.next+tableLen)>>q.clusterBits + blocks
		need := (total + perBlock - 1) / perBlock
		if need == blocks {
			break
		}
		blocks, tableLen = need, q.clusters(8*need)
	}
	places := make([]uint64, blocks)
	b := make([]byte, q.cluster())
	for i := range places {
		clear(b)
		for c := uint64(0); c < perBlock && uint64(i)*perBlock+c < total; c++ {
			be.PutUint16(b[2*c:], 1)
		}
		places[i] = q.take()
		if err := q.put(b, places[i]); err != nil {
			return 0, 0, err
		}
	}
	return q.next, tableLen, q.putTable(places, q.next)
}
