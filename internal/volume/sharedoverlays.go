package volume

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/wal"
)

// SharedOverlays are overlays that several volumes start with. When a host starts, a
// hundred forks of one cut apply its records once and share the tree, as they did before
// the host stopped. It may be used concurrently. It is dropped after the start.
type SharedOverlays struct {
	mu    sync.Mutex // glide:nonblocking
	trees map[string]*extent.Tree
}

// NewSharedOverlays returns an empty collection.
func NewSharedOverlays() *SharedOverlays { return &SharedOverlays{trees: map[string]*extent.Tree{}} }

// buildOverlay builds the overlay from what recovery found.
func (v *Volume) buildOverlay(rec wal.Recovered) {
	own := 0
	if key, ok := v.inherited(rec, &own); ok {
		s := v.env.SharedOverlays
		s.mu.Lock()
		tree := s.trees[key]
		if tree == nil {
			tree = extent.New()
			layAll(tree, rec.Entries[:own])
			s.trees[key] = tree
		}
		v.tree = tree.Clone()
		s.mu.Unlock()
	} else {
		own = 0
	}
	layAll(v.tree, rec.Entries[own:])
	v.recount()
	v.recallChanges(rec)
	v.env.SharedOverlays = nil // it is only for the start
}

// layAll applies records to a tree, in the order of their numbers.
func layAll(tree *extent.Tree, entries []wal.Entry) {
	if sorted := distinct(entries); sorted != nil {
		for _, s := range sorted {
			e := &entries[s.entry]
			tree.Set(e.Off, e.Off+e.Len, e.Place, nil)
		}
		return
	}
	for i := range entries {
		e := &entries[i]
		tree.Set(e.Off, e.Off+e.Len, e.Place, nil)
	}
}

// placed is a record's range on the volume and its place.
type placed struct {
	off   uint64
	entry uint32
}

// distinct returns the newest record of each range, by rising offset, if any two records
// either have the same range or do not overlap. That is so when a guest writes pages. In
// that order the tree's nodes stay in the processor's cache. Otherwise it returns nil.
func distinct(entries []wal.Entry) []placed {
	if len(entries) < 1024 || len(entries) > 1<<32-1 {
		return nil // too few to be worth it
	}
	all := make([]placed, len(entries))
	for i := range entries {
		all[i] = placed{entries[i].Off, uint32(i)}
	}
	slices.SortFunc(all, func(a, b placed) int {
		return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.entry, b.entry))
	})
	out := all[:0]
	for _, p := range all {
		if n := len(out); n > 0 {
			last, e := &entries[out[n-1].entry], &entries[p.entry]
			switch {
			case last.Off == e.Off && last.Len == e.Len:
				out[n-1] = p
				continue
			case last.Off+last.Len > e.Off:
				return nil
			}
		}
		out = append(out, p)
	}
	return out
}

// inherited returns the key under which siblings find what they share with the volume, if
// sharing is worth it. The entries before own all come from segments that others wrote.
func (v *Volume) inherited(rec wal.Recovered, own *int) (string, bool) {
	if v.env.SharedOverlays == nil || v.state.Floor == 0 {
		return "", false
	}
	var key strings.Builder
	fmt.Fprintf(&key, "%v %d %d", v.state.Root, v.state.Folded, v.state.Floor)
	for _, s := range rec.Sources {
		if s.Segment.Writer() != wal.Identity(v.id) {
			fmt.Fprintf(&key, " %d:%d", s.Segment.Number(), s.Limit)
		}
	}
	for *own < len(rec.Entries) && rec.Entries[*own].Seq <= v.state.Floor {
		if rec.Entries[*own].Own {
			return "", false // rolled back to a cut of its own
		}
		*own++
	}
	return key.String(), *own > 0
}

// recount computes the accounts from the overlay. Under omu, or before the volume is
// shared.
func (v *Volume) recount() {
	clear(v.live)
	v.dirty = 0
	var it extent.Iterator
	it.Seek(v.tree, 0)
	for e, ok := it.Next(); ok; e, ok = it.Next() {
		if e.Place != extent.Zero {
			v.live[wal.NumberOf(e.Place)] += int64(e.Len())
			v.dirty += int64(e.Len())
		}
	}
}
