package sharing

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// set is a set of disks, by number and ascending. The empty one has the number 0.
type set struct {
	disks []uint32
	used  bool // for sweep
}

// part is a number of references from parents that all belong to the same disks.
type part struct{ set, count uint32 }

// mix is a multiset of references, by set. The empty one has the number 0.
type mix struct {
	parts []part
	union uint32 // the set of the disks of all parts
	nodes int    // that have it
	// Of the blocks among the nodes: how many bytes, and how many in the store.
	raw, stored uint64
}

// change is one swap of a node of some mix.
type change struct {
	mix uint32
	swap
}

// sets numbers sets of disks, and mixes of them.
type sets struct {
	all   []set
	mixes []mix

	numbers    map[string]uint32
	mixNumbers map[string]uint32
	changes    map[change]uint32 // results, until the next sweep
	free       []uint32
	freeMixes  []uint32
	bytes      int64 // what sets and mixes take, about
	dead       int   // mixes added since the last sweep

	scratch []uint32
	key     []byte
}

func newSets() sets {
	return sets{
		all: make([]set, 1), mixes: make([]mix, 1),
		numbers: map[string]uint32{"": 0}, mixNumbers: map[string]uint32{"": 0}, changes: map[change]uint32{},
	}
}

// overhead is what a set or a mix takes besides its elements, in bytes.
const overhead = 160

// number returns the number of a set, which must be ascending.
func (s *sets) number(disks []uint32) uint32 {
	s.key = s.key[:0]
	for _, d := range disks {
		s.key = binary.LittleEndian.AppendUint32(s.key, d)
	}
	if n, ok := s.numbers[string(s.key)]; ok {
		return n
	}
	n := place(&s.all, &s.free, set{disks: slices.Clone(disks)})
	s.numbers[string(s.key)] = n
	s.bytes += overhead + 8*int64(len(disks))
	return n
}

// place puts v into a free place of the list, or at its end.
func place[T any](list *[]T, free *[]uint32, v T) uint32 {
	if k := len(*free); k > 0 {
		n := (*free)[k-1]
		*free = (*free)[:k-1]
		(*list)[n] = v
		return n
	}
	*list = append(*list, v)
	return uint32(len(*list) - 1)
}

// after returns the mix that swaps make of another one.
func (s *sets) after(m uint32, swaps []swap) uint32 {
	if len(swaps) == 1 {
		c := change{m, swaps[0]}
		n, ok := s.changes[c]
		if !ok {
			n = s.swapAll(m, swaps)
			s.changes[c] = n
		}
		return n
	}
	return s.swapAll(m, swaps)
}

func (s *sets) swapAll(m uint32, swaps []swap) uint32 {
	parts := slices.Clone(s.mixes[m].parts)
	for _, w := range swaps {
		// The count of a loss is -1, modulo 2³²; the sum is right at the end.
		parts = append(parts, part{w.loses, ^uint32(0)}, part{w.gets, 1})
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.set, b.set) })
	out := parts[:0]
	for _, p := range parts {
		if k := len(out); k > 0 && out[k-1].set == p.set {
			out[k-1].count += p.count
		} else {
			out = append(out, p)
		}
	}
	return s.mixNumber(slices.DeleteFunc(out, func(p part) bool { return p.set == 0 || p.count == 0 }))
}

func (s *sets) mixNumber(parts []part) uint32 {
	key := make([]byte, 0, 8*len(parts))
	for _, p := range parts {
		key = binary.LittleEndian.AppendUint32(key, p.set)
		key = binary.LittleEndian.AppendUint32(key, p.count)
	}
	if n, ok := s.mixNumbers[string(key)]; ok {
		return n
	}
	n := place(&s.mixes, &s.freeMixes, mix{parts: slices.Clone(parts), union: s.union(parts)})
	s.mixNumbers[string(key)] = n
	s.bytes += overhead + 16*int64(len(parts))
	s.dead++
	return n
}

func (s *sets) union(parts []part) uint32 {
	if len(parts) == 1 {
		return parts[0].set
	}
	s.scratch = s.scratch[:0]
	for _, p := range parts {
		s.scratch = append(s.scratch, s.all[p.set].disks...)
	}
	slices.Sort(s.scratch)
	s.scratch = slices.Compact(s.scratch)
	return s.number(s.scratch)
}

// sweep forgets the mixes that no node has, and the sets that no mix, no root and no pending
// swap names.
func (s *sets) sweep(roots map[uint32]uint32, pending []map[uint32][]swap) {
	clear(s.changes)
	s.dead = 0
	for i := range s.all {
		s.all[i].used = i == 0
	}
	for _, n := range roots {
		s.all[n].used = true
	}
	for _, nodes := range pending {
		for _, swaps := range nodes {
			for _, w := range swaps {
				s.all[w.loses].used, s.all[w.gets].used = true, true
			}
		}
	}
	for key, n := range s.mixNumbers {
		m := &s.mixes[n]
		if n != 0 && m.nodes == 0 {
			s.bytes -= overhead + 16*int64(len(m.parts))
			delete(s.mixNumbers, key)
			*m = mix{}
			s.freeMixes = append(s.freeMixes, n)
			continue
		}
		s.all[m.union].used = true
		for _, p := range m.parts {
			s.all[p.set].used = true
		}
	}
	for key, n := range s.numbers {
		if e := &s.all[n]; !e.used {
			s.bytes -= overhead + 8*int64(len(e.disks))
			delete(s.numbers, key)
			*e = set{}
			s.free = append(s.free, n)
		}
	}
}
