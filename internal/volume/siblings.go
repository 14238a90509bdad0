package volume

import (
	"fmt"
	"strings"
	"sync"

	"github.com/paraglide/glide/internal/extent"
	"github.com/paraglide/glide/internal/wal"
)

// Siblings are overlays that several volumes begin with: a hundred forks of one
// cut lay its records once, and share the tree, as they did before the host
// stopped. It may be used concurrently, and is thrown away after the start.
type Siblings struct {
	mu    sync.Mutex
	trees map[string]*extent.Tree
}

// NewSiblings returns an empty collection.
func NewSiblings() *Siblings { return &Siblings{trees: map[string]*extent.Tree{}} }

// lay builds the overlay of what recovery found.
func (v *Volume) lay(rec wal.Recovered) {
	own := 0
	if key, ok := v.inherited(rec, &own); ok {
		s := v.env.Siblings
		s.mu.Lock()
		tree := s.trees[key]
		if tree == nil {
			tree = extent.New()
			for i := range rec.Entries[:own] {
				e := &rec.Entries[i]
				tree.Set(e.Off, e.Off+e.Len, e.Place, nil)
			}
			s.trees[key] = tree
		}
		v.tree = tree.Clone()
		s.mu.Unlock()
	} else {
		own = 0
	}
	for i := range rec.Entries[own:] {
		e := &rec.Entries[own+i]
		v.tree.Set(e.Off, e.Off+e.Len, e.Place, nil)
	}
	v.recount()
	v.recallChanges(rec)
	v.env.Siblings = nil // it is for the start only
}

// inherited tells under which key siblings find what they share with the
// volume, if it is worth it: the entries before own are all from segments that
// others wrote.
func (v *Volume) inherited(rec wal.Recovered, own *int) (string, bool) {
	if v.env.Siblings == nil || v.state.Floor == 0 {
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

// recount takes the accounts from the overlay. Under omu, or before anyone else has the volume.
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
