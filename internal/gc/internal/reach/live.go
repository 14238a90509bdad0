package reach

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
)

// live is what of a pack is reached.
type live struct {
	whole bool   // a pin names the pack
	slots []Slot // by offset
	went  int    // how many of them were looked up in the pack's forwards; -1: not in all of these
}

// Slot is the place of a slot of a pack.
type Slot struct{ Off, Len uint32 }

func bySlot(s Slot, off uint32) int { return cmp.Compare(s.Off, off) }

// pack returns what of a pack is reached, and reaches the pack. Under mu.
func (m *Mark) pack(id pack.ID) *live {
	l := m.packs[id]
	if l == nil {
		l = &live{}
		m.packs[id] = l
	}
	return l
}

// reach marks a slot. Under mu.
func (m *Mark) reach(ref *pack.Ref) {
	if ref.IsHole() {
		return
	}
	l := m.pack(ref.Pack)
	if i, found := slices.BinarySearchFunc(l.slots, ref.Off, bySlot); !found {
		l.slots = slices.Insert(l.slots, i, Slot{ref.Off, ref.Len})
	}
}

// Reached tells whether a pack is marked. Only keys of packs are asked for.
func (m *Mark) Reached(key string) bool {
	id, err := pack.ParseKey(key)
	m.mu.Lock()
	defer m.mu.Unlock()
	return err != nil || m.packs[id] != nil || m.uploading(id)
}

// uploading tells whether a pack is of an upload session in progress. Under mu.
func (m *Mark) uploading(id pack.ID) bool { return m.nonces[pinobject.Nonce(id.Nonce[:8])] }

// Alive returns the slots of a pack that are reached; nil if they are not all that is
// needed of it.
func (m *Mark) Alive(id pack.ID) []Slot {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.packs[id]
	if l == nil || l.whole || m.uploading(id) {
		return nil
	}
	return slices.Clone(l.slots)
}

// listForwards lists the forwards. It comes after the pins: whoever repairs a pack
// creates the forward before it drops its pin.
func (m *Mark) listForwards(ctx context.Context) error {
	m.forwards = map[pack.ID][]string{}
	return forward.Each(ctx, m.store, func(from, _ pack.ID, in objstore.Info) {
		m.forwards[from] = append(m.forwards[from], in.Key)
	})
}

// follow marks where the marked slots of packs went, and from there on.
func (m *Mark) follow(ctx context.Context) error {
	if fault.Is("gc-forgets-forwards") {
		return nil
	}
	for changed := true; changed; {
		changed = false
		if err := m.readForwards(ctx); err != nil {
			return err
		}
		for from, keys := range m.forwards {
			l := m.packs[from]
			if l == nil || l.went == len(l.slots) || slices.ContainsFunc(keys, func(k string) bool { return m.followed[k] == nil }) {
				continue // the last is of a pack that has just been reached: the next turn reads it
			}
			changed = true
			for _, key := range keys {
				m.followOne(m.followed[key], l)
			}
			l.went = len(l.slots)
		}
	}
	return nil
}

// readForwards reads the forwards of the packs that are reached by now.
func (m *Mark) readForwards(ctx context.Context) error {
	var list []string
	for from, keys := range m.forwards {
		l := m.packs[from]
		if l == nil {
			continue
		}
		for _, key := range keys {
			if m.followed[key] == nil {
				list = append(list, key)
				l.went = -1
			}
		}
	}
	return SideBySide(ctx, list, func(ctx context.Context, key string) error {
		f, err := forward.Read(ctx, m.store, key)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.followed[key] = f
		m.used++
		return nil
	})
}

func (m *Mark) followOne(f *forward.Forward, l *live) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range f.Slots {
		if _, found := slices.BinarySearchFunc(l.slots, s.Off, bySlot); found || l.whole {
			m.reach(&pack.Ref{Pack: f.To, Off: s.To, Len: s.Len})
		}
	}
}
