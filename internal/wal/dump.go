package wal

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/paraglide/glide/internal/errs"
)

// Dump writes a segment file as text: its header and every whole record. It reads the
// file as it is, even while a daemon writes to it. A spare that was never used is all
// zeros.
func Dump(w io.Writer, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	h, err := decodeHeader(b)
	if err != nil && len(bytes.TrimLeft(b, "\x00")) == 0 {
		_, err = fmt.Fprintf(w, "log segment, spare, %d bytes: nothing was ever written to it\n", len(b))
		return err
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	kinds := map[byte]string{kindSpare: "spare", kindLog: "log", kindCompacted: "compacted"}
	fmt.Fprintf(w, "log segment %d, %s, %d bytes\n  incarnation %016x, written by volume %x\n", h.number, kinds[h.kind], h.size, h.incarnation, h.writer)
	if int64(len(b)) < int64(h.size) {
		return errs.New(errs.Corrupt, "%s has %d bytes, its header says %d", path, len(b), h.size)
	}
	if t, ok := decodeTrailer(b[h.size-pageSize:h.size], h.incarnation, h.size); ok {
		fmt.Fprintf(w, "  full: %d records, numbers %d to %d, index of %d bytes at %d\n", t.records, t.firstSeq, t.lastSeq, t.indexLen, t.indexPos)
	}
	fmt.Fprintf(w, "%10s %12s %16s %12s %12s  kind\n", "at", "number", "offset", "length", "durable")
	seed := seedOf(h.incarnation)
	pos := uint32(pageSize)
	for uint64(pos)+HeaderSize <= uint64(h.size) {
		r, ok := checkRecord(b[pos:h.size], seed)
		if !ok {
			break
		}
		kind := "data"
		if r.Zero {
			kind = "zero"
		}
		if r.More {
			kind += ", goes on"
		}
		if r.Cont {
			kind += ", continued"
		}
		fmt.Fprintf(w, "%10d %12d %16d %12d %12d  %s\n", pos, r.Seq, r.Off, r.Len, r.Durable, kind)
		pos += size(r.payload())
	}
	_, err = fmt.Fprintf(w, "records end at byte %d\n", pos)
	return err
}
