package sharing

import (
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

// change is a reference that a node of some mix loses and one that it gets, each by the
// parent's set; 0 is none.
type change struct{ mix, loses, gets uint32 }

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

// after returns the mix that c makes of another one.
func (s *sets) after(c change) uint32 {
	if n, ok := s.changes[c]; ok {
		return n
	}
	var parts []part
	gets := c.gets != 0
	for _, p := range s.mixes[c.mix].parts {
		if gets && p.set > c.gets {
			parts, gets = append(parts, part{c.gets, 1}), false
		}
		if p.set == c.gets {
			p.count++
			gets = false
		}
		if p.set == c.loses {
			p.count--
		}
		if p.count > 0 {
			parts = append(parts, p)
		}
	}
	if gets {
		parts = append(parts, part{c.gets, 1})
	}
	n := s.mixNumber(parts)
	s.changes[c] = n
	return n
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
	n := place(&s.mixes, &s.freeMixes, mix{parts: parts, union: s.union(parts)})
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

// sweep forgets the mixes that no node has, and the sets that neither a mix nor one of the
// roots names.
func (s *sets) sweep(roots map[uint32]uint32) {
	clear(s.changes)
	s.dead = 0
	for i := range s.all {
		s.all[i].used = i == 0
	}
	for _, n := range roots {
		s.all[n].used = true
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
