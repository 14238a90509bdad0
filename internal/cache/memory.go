package cache

import (
	"encoding/binary"
	"sync"

	"github.com/paraglide/glide/internal/cache/internal/s3fifo"
	"github.com/paraglide/glide/internal/invariants"
	"github.com/paraglide/glide/internal/pack"
)

// keyOf shortens a hash to the key by which the tiers are indexed. What is found under a
// key is compared with the whole hash, or verified against it.
func keyOf(h *pack.Hash) uint64 { return binary.LittleEndian.Uint64(h[:]) }

// memory is the memory tier: raw blocks on the heap, limited in bytes. A block that was
// returned stays valid after it is evicted.
type memory struct {
	shards [memoryShards]memoryShard
}

const memoryShards = 16

type memoryShard struct {
	mu    sync.RWMutex // glide:nonblocking
	limit int64
	bytes int64
	slots map[uint64]uint32
	items []memoryItem
	free  []uint32
	pol   *s3fifo.Policy
}

type memoryItem struct {
	sum  invariants.Sum // of raw
	hash pack.Hash
	raw  []byte
}

func newMemory(limit int64) *memory {
	m := &memory{}
	for i := range m.shards {
		m.shards[i] = memoryShard{limit: limit / memoryShards, slots: map[uint64]uint32{}, pol: s3fifo.New()}
	}
	return m
}

func (m *memory) shard(h *pack.Hash) *memoryShard { return &m.shards[h[31]%memoryShards] }

// get returns the block. The caller must not modify it.
func (m *memory) get(h *pack.Hash) ([]byte, bool) {
	s := m.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	slot, ok := s.slots[keyOf(h)]
	if !ok || s.items[slot].hash != *h {
		return nil, false
	}
	s.pol.Use(slot)
	it := &s.items[slot]
	if invariants.Enabled {
		invariants.Check(it.sum.Matches(it.raw), "the block %s was changed in the cache", h)
	}
	return it.raw, true
}

// put adds the block. Nothing may modify it afterwards.
func (m *memory) put(h *pack.Hash, raw []byte) {
	s := m.shard(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	if int64(len(raw)) > s.limit {
		return
	}
	if _, ok := s.slots[keyOf(h)]; ok {
		return
	}
	for s.bytes+int64(len(raw)) > s.limit {
		s.drop(s.pol.Evict(func(slot uint32) uint64 { return keyOf(&s.items[slot].hash) }))
	}
	var slot uint32
	if n := len(s.free); n > 0 {
		slot, s.free = s.free[n-1], s.free[:n-1]
	} else {
		slot = uint32(len(s.items))
		s.items = append(s.items, memoryItem{})
	}
	s.items[slot] = memoryItem{invariants.SumOf(raw), *h, raw}
	s.slots[keyOf(h)] = slot
	s.bytes += int64(len(raw))
	s.pol.Add(slot, keyOf(h))
	if invariants.Enabled {
		invariants.Check(s.bytes <= s.limit && len(s.slots)+len(s.free) == len(s.items), "%d of %d bytes, %d blocks and %d free slots of %d",
			s.bytes, s.limit, len(s.slots), len(s.free), len(s.items))
	}
}

func (s *memoryShard) drop(slot uint32) {
	it := &s.items[slot]
	delete(s.slots, keyOf(&it.hash))
	s.bytes -= int64(len(it.raw))
	*it = memoryItem{}
	s.free = append(s.free, slot)
}

func (m *memory) bytes() (n int64) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.RLock()
		n += s.bytes
		s.mu.RUnlock()
	}
	return n
}
