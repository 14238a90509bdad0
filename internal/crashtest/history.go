package crashtest

import (
	"bytes"
	"fmt"
)

// Op is one change of a disk's content: bytes, or zeros where Data is nil.
type Op struct {
	Off, Len uint64
	Data     []byte
}

// Write is an Op that writes data.
func Write(off uint64, data []byte) Op { return Op{off, uint64(len(data)), data} }

func (o Op) apply(b []byte) {
	if o.Data == nil {
		clear(b[o.Off : o.Off+o.Len])
	} else {
		copy(b[o.Off:], o.Data)
	}
}

// History is what was done to one disk, in order. An op is in it from before the
// engine sees it, since it may be there after a crash.
type History struct {
	Start   []byte // content before the first op
	Ops     []Op
	Durable int // so many of the ops are acknowledged as durable: 0 <= Durable <= len(Ops)
}

// Clone is a copy that later ops leave alone.
func (h *History) Clone() History {
	return History{h.Start, h.Ops[:len(h.Ops):len(h.Ops)], h.Durable}
}

// Content is what the disk holds after n ops.
func (h *History) Content(n int) []byte {
	b := bytes.Clone(h.Start)
	for _, o := range h.Ops[:n] {
		o.apply(b)
	}
	return b
}

// Prefix finds the smallest n of at least from for which got is the content after n
// ops; -1 if there is none.
func (h *History) Prefix(got []byte, from int) int {
	b := h.Content(from)
	for n := from; ; n++ {
		if bytes.Equal(b, got) {
			return n
		}
		if n == len(h.Ops) {
			return -1
		}
		h.Ops[n].apply(b)
	}
}

// Explain says where got first differs from the content after n ops, and which ops
// touched that byte.
func (h *History) Explain(got []byte, n int) string {
	want := h.Content(n)
	for i := range got {
		if got[i] != want[i] {
			s := fmt.Sprintf("byte %d is %#x, after op %d it was %#x;", i, got[i], n, want[i])
			for n, o := range h.Ops {
				if o.Off <= uint64(i) && uint64(i) < o.Off+o.Len {
					s += fmt.Sprintf(" op %d %d+%d zero=%v;", n, o.Off, o.Len, o.Data == nil)
				}
			}
			return s
		}
	}
	return "equal"
}
