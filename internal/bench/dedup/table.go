package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/nbd/nbdclient"
)

const (
	pageSize = 4 << 10
	chunk    = 1 << 20 // a multiple of every block size
)

var blockSizes = []int{4 << 10, 16 << 10, 64 << 10, 128 << 10, 256 << 10}

// extent is a run of pages of a disk.
type extent struct{ off, len int64 }

// each reads a disk chunk by chunk.
func each(path string, fn func(off int64, b []byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, chunk)
	for off := int64(0); ; off += chunk {
		n, err := io.ReadFull(f, b)
		if n > 0 {
			clear(b[n:])
			if err := fn(off, b); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// changes returns the pages in which two disks differ, none longer than a chunk.
func changes(base, disk string) (runs []extent, err error) {
	f, err := os.Open(base)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	old := make([]byte, chunk)
	err = each(disk, func(off int64, b []byte) error {
		if _, err := f.ReadAt(old, off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for p := 0; p < chunk; p += pageSize {
			if bytes.Equal(b[p:p+pageSize], old[p:p+pageSize]) {
				continue
			}
			at := off + int64(p)
			if n := len(runs); n > 0 && p > 0 && runs[n-1].off+runs[n-1].len == at {
				runs[n-1].len += pageSize
			} else {
				runs = append(runs, extent{at, pageSize})
			}
		}
		return nil
	})
	return runs, err
}

// write writes what a disk changed to a new fork of the base, and publishes it.
func (s *store) write(ctx context.Context, name, disk string, runs []extent) error {
	if _, err := s.Do(ctx, "fork", "base", name); err != nil {
		return err
	}
	c, err := nbdclient.Dial(ctx, "unix", s.nbd, nbdclient.Options{Export: name})
	if err != nil {
		return err
	}
	defer c.Close()
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, chunk)
	for _, r := range runs {
		if _, err := f.ReadAt(b[:r.len], r.off); err != nil {
			return err
		}
		if err := c.Write(b[:r.len], uint64(r.off), 0); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return err
	}
	_, err = s.Do(ctx, "flush", name)
	return err
}

// sized is what blocks of one size come to.
type sized struct {
	size   int
	seen   map[[32]byte]bool
	blocks int64 // that forks changed, holes left out
	hits   int64 // of them, those that the base or an earlier fork has
	later  int64 // blocks of the second fork on
	shared int64 // of them, those that the base or an earlier fork has
	raw    int64 // bytes of the rest
	packed int64 // the same, compressed
}

// row is a fork.
type row struct{ changed, stored int64 }

// table is all that is measured.
type table struct {
	base  int64 // bytes in the store
	total int64
	data  int64 // bytes of the base that are not zero, in blocks of 128 KiB
	rows  []row
	last  row
	sizes []*sized
}

func newTable(base int64) *table {
	t := &table{base: base, total: base}
	for _, n := range blockSizes {
		t.sizes = append(t.sizes, &sized{size: n, seen: map[[32]byte]bool{}})
	}
	return t
}

var zeros [chunk]byte

func (t *table) addBase(path string) error {
	return each(path, func(_ int64, b []byte) error {
		for _, s := range t.sizes {
			for p := 0; p < chunk; p += s.size {
				if block := b[p : p+s.size]; !bytes.Equal(block, zeros[:s.size]) {
					s.seen[sha256.Sum256(block)] = true
					if s.size == 128<<10 {
						t.data += int64(s.size)
					}
				}
			}
		}
		return nil
	})
}

// addFork counts a fork's blocks of each size in which a page has changed.
func (t *table) addFork(disk string, runs []extent, stored int64) error {
	t.last = row{stored: stored - t.total}
	for _, r := range runs {
		t.last.changed += r.len
	}
	t.rows, t.total = append(t.rows, t.last), stored
	return each(disk, func(off int64, b []byte) error {
		var dirty [chunk / pageSize]bool
		any := false
		for len(runs) > 0 && runs[0].off < off+chunk {
			for p := runs[0].off; p < runs[0].off+runs[0].len; p += pageSize {
				dirty[(p-off)/pageSize], any = true, true
			}
			runs = runs[1:]
		}
		if any {
			for _, s := range t.sizes {
				s.add(b, &dirty, len(t.rows) > 1)
			}
		}
		return nil
	})
}

func (s *sized) add(b []byte, dirty *[chunk / pageSize]bool, later bool) {
	for p := 0; p < chunk; p += s.size {
		changed := false
		for i := p / pageSize; i < (p+s.size)/pageSize; i++ {
			changed = changed || dirty[i]
		}
		block := b[p : p+s.size]
		if !changed || bytes.Equal(block, zeros[:s.size]) {
			continue
		}
		hash := sha256.Sum256(block)
		hit := s.seen[hash]
		s.seen[hash] = true
		s.blocks++
		if later {
			s.later++
		}
		if hit {
			s.hits++
			if later {
				s.shared++
			}
			continue
		}
		s.raw += int64(s.size)
		s.packed += int64(len(pack.EncodeSlot(nil, pack.KindBlock, block, pack.CompressionZstd)))
	}
}

func (t *table) print(w io.Writer) {
	var changed int64
	for _, r := range t.rows {
		changed += r.changed
	}
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	fmt.Fprintf(w, "\nbase: %.0f MiB of data, %.1f MiB in the store, %.2f times\n", mib(t.data), mib(t.base), float64(t.data)/float64(t.base))
	fmt.Fprintf(w, "%d forks: %.0f MiB of pages changed, %.1f MiB more in the store, %.2f times\n\n", len(t.rows), mib(changed), mib(t.total-t.base), float64(changed)/float64(max(1, t.total-t.base)))
	fmt.Fprintf(w, "| block | changed | had by the base or an earlier fork: all, from the second fork on | compression of the rest | stored, with references |\n|---|---|---|---|---|\n")
	for _, s := range t.sizes {
		fmt.Fprintf(w, "| %d KiB | %d blocks, %.0f MiB | %.1f %%, %.1f %% | %.2f times | %.1f MiB |\n", s.size>>10, s.blocks, mib(s.blocks*int64(s.size)),
			100*float64(s.hits)/float64(max(1, s.blocks)), 100*float64(s.shared)/float64(max(1, s.later)), float64(s.raw)/float64(max(1, s.packed)), mib(s.packed+pack.RefLen*s.blocks))
	}
}
