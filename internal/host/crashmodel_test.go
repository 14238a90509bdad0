package host

import (
	"bytes"
	"fmt"
	"maps"
)

// crashOp is one write in the model: bytes, or zeros when data is nil. A
// rollback is a write of the whole disk.
type crashOp struct {
	off, n uint64
	data   []byte
}

func (o crashOp) apply(b []byte) {
	if o.data == nil {
		clear(b[o.off : o.off+o.n])
	} else {
		copy(b[o.off:], o.data)
	}
}

// modelDisk is what must hold for one volume.
type modelDisk struct {
	id, name string
	size     uint64
	start    []byte
	ops      []crashOp
	flushed  int // this many ops are acknowledged as durable
	// stored: the newest commit holds at least this many ops; -1: the volume may not be
	// in the store.
	stored int
	snaps  map[string]modelSnap
	// Requested and not acknowledged: it may or may not have happened.
	maybe, removing bool
	renaming        string
	policy          string // "" for local
}

type modelSnap struct {
	content []byte
	maybe   bool
}

func (d *modelDisk) clone() *modelDisk {
	c := *d
	c.ops, c.snaps = d.ops[:len(d.ops):len(d.ops)], maps.Clone(d.snaps)
	return &c
}

// content is the model's content after n ops.
func (d *modelDisk) content(n int) []byte {
	b := bytes.Clone(d.start)
	for _, o := range d.ops[:n] {
		o.apply(b)
	}
	return b
}

// prefix returns an n, at least from, for which got is the content after n ops, or -1.
func (d *modelDisk) prefix(got []byte, from int) int {
	b := d.content(from)
	for n := from; ; n++ {
		if bytes.Equal(b, got) {
			return n
		}
		if n == len(d.ops) {
			return -1
		}
		d.ops[n].apply(b)
	}
}

// explain describes where got first differs from the content after n ops, and which ops
// touched that byte.
func (d *modelDisk) explain(got []byte, n int) string {
	want := d.content(n)
	for i := range got {
		if got[i] != want[i] {
			s := fmt.Sprintf("byte %d is %#x, after op %d it was %#x;", i, got[i], n, want[i])
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
