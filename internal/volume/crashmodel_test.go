package volume

import (
	"bytes"
	"fmt"
)

// op is one write in the model: bytes, or zeros when data is nil.
type op struct {
	off, n uint64
	data   []byte
}

// disk is a volume under test, and the history of the writes to it.
type disk struct {
	v       *Volume
	start   []byte // content before the first op
	ops     []op
	flushed int // this many ops are acknowledged as durable
}

func (d *disk) clone() *disk {
	return &disk{start: d.start, ops: d.ops[:len(d.ops):len(d.ops)], flushed: d.flushed}
}

func apply(b []byte, o op) {
	if o.data == nil {
		clear(b[o.off : o.off+o.n])
	} else {
		copy(b[o.off:], o.data)
	}
}

// content is the model's content after n ops.
func (d *disk) content(n int) []byte {
	b := bytes.Clone(d.start)
	for _, o := range d.ops[:n] {
		apply(b, o)
	}
	return b
}

// prefix returns the n for which got is the content after n ops, or -1.
func (d *disk) prefix(got []byte) int {
	b := d.content(d.flushed)
	for n := d.flushed; ; n++ {
		if bytes.Equal(b, got) {
			return n
		}
		if n == len(d.ops) {
			return -1
		}
		apply(b, d.ops[n])
	}
}

// explain describes where got first differs from the content after all flushed ops.
func (d *disk) explain(got []byte) string {
	want := d.content(d.flushed)
	for i := range got {
		if got[i] != want[i] {
			s := fmt.Sprintf("byte %d is %#x, after the flushed ops it was %#x;", i, got[i], want[i])
			for n, o := range d.ops {
				if o.off <= uint64(i) && uint64(i) < o.off+o.n {
					s += fmt.Sprintf(" op %d %d+%d zero=%v;", n, o.off, o.n, o.data == nil)
				}
			}
			return s
		}
	}
	return "equal"
}
