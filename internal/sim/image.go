package sim

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/paraglide/glide/internal/sim/hardware"
)

const sectorSize = hardware.SectorSize

// image is the content of a disk: for each sector the stamp that fills it, 0 for
// zeros. What is beyond its end is zeros.
type image []uint64

func (m image) at(i int) uint64 {
	if i < len(m) {
		return m[i]
	}
	return 0
}

func (m image) clone(n int) image {
	c := make(image, max(n, len(m)))
	copy(c, m)
	return c
}

func (m image) equal(o image) bool {
	for i := range max(len(m), len(o)) {
		if m.at(i) != o.at(i) {
			return false
		}
	}
	return true
}

// fill writes the sector of a stamp.
func fill(b []byte, stamp uint64) {
	for len(b) > 0 {
		binary.LittleEndian.PutUint64(b, stamp)
		b = b[8:]
	}
}

// stamps reads what fill wrote. A sector that is not of one piece is an error.
func stamps(b []byte, at int) (image, error) {
	out := make(image, len(b)/sectorSize)
	for i := range out {
		s := b[i*sectorSize : (i+1)*sectorSize]
		out[i] = binary.LittleEndian.Uint64(s)
		for k := 8; k < sectorSize; k += 8 {
			if v := binary.LittleEndian.Uint64(s[k:]); v != out[i] {
				return nil, fmt.Errorf("sector %d holds both %x and %x", at+i, out[i], v)
			}
		}
	}
	return out, nil
}

// write is one write of the model: sectors from at on become what stamp says.
type write struct {
	at, n int
	stamp func(sector int) uint64 // nil: zeros
	whole image                   // if not nil, it becomes all of the disk: a rollback
	what  string
	acked time.Time // when a guest was told that it is made; zero if none was
}

func (o *write) apply(m image) image {
	if o.whole != nil {
		return o.whole.clone(len(m))
	}
	if len(m) < o.at+o.n {
		m = m.clone(o.at + o.n)
	}
	for i := o.at; i < o.at+o.n; i++ {
		if m[i] = 0; o.stamp != nil {
			m[i] = o.stamp(i)
		}
	}
	return m
}

// bytes is the content of a write.
func (o *write) bytes() []byte {
	b := make([]byte, o.n*sectorSize)
	for i := range o.n {
		fill(b[i*sectorSize:(i+1)*sectorSize], o.stamp(o.at+i))
	}
	return b
}

// history is what was written to a disk, in order. Numbers of writes count from
// 1; start is the content before those in writes, of which first is the number
// of the newest.
type history struct {
	start  image
	first  int
	writes []write
}

// last is the number of the newest write.
func (h *history) last() int { return h.first + len(h.writes) }

func (h *history) add(o write) int {
	h.writes = append(h.writes, o)
	return h.last()
}

// content is the disk after n writes.
func (h *history) content(n int) image {
	m := h.start.clone(0)
	for i := range n - h.first {
		m = h.writes[i].apply(m)
	}
	return m
}

// find looks for the least and the greatest n, from..to, after which the disk was
// as got.
func (h *history) find(got image, from, to int) (least, greatest int, ok bool) {
	from = max(from, h.first)
	m := h.content(from)
	for n := from; ; n++ {
		if m.equal(got) {
			if !ok {
				least = n
			}
			greatest, ok = n, true
		}
		if n >= to {
			return least, greatest, ok
		}
		m = h.writes[n-h.first].apply(m)
	}
}

// truncate forgets the writes behind n.
func (h *history) truncate(n int) { h.writes = h.writes[:n-h.first] }

// settle forgets what came before n, of which nothing can be asked any more.
func (h *history) settle(n int) {
	if n > h.first {
		h.start = h.content(n)
		h.writes = append([]write(nil), h.writes[n-h.first:]...)
		h.first = n
	}
}

// explain tells where got differs from the disk after n writes, and which writes
// touched that place.
func (h *history) explain(got image, n int) string {
	want, many := h.content(n), 0
	for i := range max(len(got), len(want)) {
		if got.at(i) != want.at(i) {
			many++
		}
	}
	for i := range max(len(got), len(want)) {
		if got.at(i) == want.at(i) {
			continue
		}
		s := fmt.Sprintf("%d sectors differ; sector %d is %x, after write %d it was %x;", many, i, got.at(i), n, want.at(i))
		for k, o := range h.writes {
			if o.whole != nil || o.at <= i && i < o.at+o.n {
				v := uint64(0)
				if o.whole != nil {
					v = o.whole.at(i)
				} else if o.stamp != nil {
					v = o.stamp(i)
				}
				s += fmt.Sprintf(" write %d (%s) made it %x;", h.first+k+1, o.what, v)
			}
		}
		return s
	}
	return "equal"
}
