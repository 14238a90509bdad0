package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

const page = 4096

// op is one write of whole pages: with its number, or zeros.
type op struct {
	first, pages int
	zero         bool
}

// history is what was written to a volume, in order, and how much of it was
// acknowledged as durable. A page that op n wrote is filled with n (from 1).
type history struct {
	pages int

	mu       sync.Mutex
	ops      []op
	answered int // this many ops were
	flushed  int // this many ops are durable
}

func fillPage(b []byte, n int) {
	for i := 0; i < page; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(n))
	}
}

// pageOf returns the op that wrote the page, -1 if it is of several.
func pageOf(b []byte) int {
	n := binary.LittleEndian.Uint64(b)
	for i := 8; i < page; i += 8 {
		if binary.LittleEndian.Uint64(b[i:]) != n {
			return -1
		}
	}
	return int(n)
}

// traffic sends random requests, up to eight under way at once, until the
// connection breaks. What a FLUSH, or a write with FUA, covers is noted when it
// is acknowledged.
func (h *history) traffic(c *nbdclient.Client, r *rand.Rand) error {
	type waiting struct {
		ch <-chan nbdclient.Result
		// covers is how many ops the answer makes durable: with FLUSH those that
		// had been answered when it was sent, with FUA all up to the op itself.
		covers int
		write  bool
	}
	var queue []waiting
	answered := h.total()
	take := func() error {
		w := queue[0]
		queue = queue[1:]
		if res := <-w.ch; res.Err != nil {
			return res.Err
		}
		if w.write {
			answered++
		}
		h.mu.Lock()
		h.answered = answered
		h.flushed = max(h.flushed, w.covers)
		h.mu.Unlock()
		return nil
	}
	for {
		var req nbdclient.Request
		w := waiting{}
		switch k := r.IntN(20); {
		case k < 3:
			req.Op, w.covers = nbd.OpFlush, answered
		default:
			o := op{pages: 1 + r.IntN(4), zero: k < 5}
			if r.IntN(30) == 0 {
				o.pages = min(200, h.pages-1)
			}
			o.first = r.IntN(h.pages - o.pages)
			n := h.add(o)
			w.write = true
			req = request(o, n, r)
			if req.Flags&nbdclient.FUA != 0 {
				w.covers = n
			}
		}
		w.ch = c.Go(req)
		queue = append(queue, w)
		for len(queue) >= 8 || len(queue) > 0 && r.IntN(6) == 0 {
			if err := take(); err != nil {
				return err
			}
		}
	}
}

func request(o op, n int, r *rand.Rand) nbdclient.Request {
	req := nbdclient.Request{Off: uint64(o.first) * page, Length: uint32(o.pages * page)}
	if r.IntN(10) == 0 {
		req.Flags = nbdclient.FUA
	}
	switch {
	case o.zero && r.IntN(2) == 0:
		req.Op = nbd.OpTrim
	case o.zero:
		req.Op = nbd.OpZero
	default:
		req.Op = nbd.OpWrite
		req.Data = make([]byte, o.pages*page)
		for i := range o.pages {
			fillPage(req.Data[i*page:], n)
		}
	}
	return req
}

func (h *history) add(o op) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	return len(h.ops)
}

func (h *history) total() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// check finds the n for which the disk is exactly as it was after n ops, n being at
// least what was flushed (prefix, flush-is-durable), and forgets the ops behind it.
func (h *history) check(disk []byte) error {
	got := make([]int, h.pages)
	for i := range got {
		if got[i] = pageOf(disk[i*page:]); got[i] < 0 {
			return fmt.Errorf("page %d is torn", i)
		}
	}
	n, err := h.match(got, h.flushed)
	if err != nil {
		return err
	}
	h.ops = h.ops[:n]
	h.answered, h.flushed = n, n
	return nil
}

// match finds the n, at least so great, for which the pages show what they did
// after n ops: each the op that wrote it, or 0.
func (h *history) match(got []int, least int) (int, error) {
	want := make([]int, h.pages)
	wrong := 0
	for i := range got {
		if got[i] != 0 {
			wrong++
		}
	}
	best, bestAt := h.pages+1, 0
	for n := 0; ; n++ {
		if n >= least {
			if wrong == 0 {
				return n, nil
			}
			if wrong < best {
				best, bestAt = wrong, n
			}
		}
		if n == len(h.ops) {
			return 0, fmt.Errorf("the disk is no prefix: %d ops, %d of them durable; nearest is after %d, %d pages differ", len(h.ops), least, bestAt, best)
		}
		o := h.ops[n]
		for i := o.first; i < o.first+o.pages; i++ {
			v := n + 1
			if o.zero {
				v = 0
			}
			if want[i] == got[i] && v != got[i] {
				wrong++
			} else if want[i] != got[i] && v == got[i] {
				wrong--
			}
			want[i] = v
		}
	}
}
