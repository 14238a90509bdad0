package s3fifo

import "testing"

// A single scan of everything does not evict what is used again and again.
func TestScanResistance(t *testing.T) {
	p := New()
	key := map[uint32]uint64{}
	slotOf := map[uint64]uint32{}
	const slots = 100
	next := uint32(0)
	read := func(k uint64) bool {
		if s, ok := slotOf[k]; ok {
			p.Use(s)
			return true
		}
		s := next
		if next < slots {
			next++
		} else {
			s = p.Evict(func(s uint32) uint64 { return key[s] })
			delete(slotOf, key[s])
		}
		key[s], slotOf[k] = k, s
		p.Add(s, k)
		return false
	}
	for range 5 {
		for k := uint64(0); k < 50; k++ {
			read(k)
		}
	}
	for k := uint64(1000); k < 5000; k++ {
		read(k)
	}
	hits := 0
	for k := uint64(0); k < 50; k++ {
		if read(k) {
			hits++
		}
	}
	if hits < 45 {
		t.Fatalf("a scan left %d of 50 hot blocks", hits)
	}
}
