package wal

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/wal/internal/segfile"
)

// Dump writes a segment file as text: its header and every whole record. It reads the
// file as it is, even while a daemon writes to it. A spare that was never used is all
// zeros.
func Dump(w io.Writer, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	h, err := segfile.DecodeHeader(b)
	if err != nil && len(bytes.TrimLeft(b, "\x00")) == 0 {
		_, err = fmt.Fprintf(w, "log segment, spare, %d bytes: nothing was ever written to it\n", len(b))
		return err
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	kinds := map[byte]string{kindSpare: "spare", kindLog: "log", kindCompacted: "compacted"}
	fmt.Fprintf(w, "log segment %d, %s, %d bytes\n  incarnation %016x, written by volume %x\n", h.Number, kinds[h.Kind], h.Size, h.Incarnation, h.Writer)
	if h.Seal != (seal.Mark{}) {
		fmt.Fprintf(w, "  sealed with root %d of domain %08x, %v\n", h.Seal.Root, h.Seal.Domain, h.Seal.Suite)
	}
	if int64(len(b)) < int64(h.Size) {
		return errs.New(errs.Corrupt, "%s has %d bytes, its header says %d", path, len(b), h.Size)
	}
	if t, ok := segfile.DecodeTrailer(b[h.Size-pageSize:h.Size], h.Incarnation, h.Size, HeaderSize); ok {
		fmt.Fprintf(w, "  full: %d records, numbers %d to %d, index of %d bytes at %d\n", t.Records, t.FirstSeq, t.LastSeq, t.IndexLen, t.IndexPos)
	}
	fmt.Fprintf(w, "%10s %12s %16s %12s %12s  kind\n", "at", "number", "offset", "length", "durable")
	seed, iv := seedOf(h.Incarnation), uint32(0)
	if h.Seal != (seal.Mark{}) {
		iv = ivSize
	}
	pos := uint32(pageSize)
	for uint64(pos)+HeaderSize <= uint64(h.Size) {
		r, ok := checkRecord(b[pos:h.Size], seed, iv)
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
