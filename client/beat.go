package client

import "time"

// beat is how often the daemon hears of a source that has nothing yet: well below
// the minute after which it takes silence for a client that is gone.
const beat = 10 * time.Second

// beating is a Source that returns an extent without data whenever another has
// returned nothing for a beat.
type beating struct {
	src   Source
	ask   chan struct{}
	got   chan next
	every time.Duration
	asked bool
}

// next is what a source returned.
type next struct {
	e   Extent
	err error
}

func newBeating(src Source, every time.Duration) *beating {
	b := &beating{src: src, ask: make(chan struct{}, 1), got: make(chan next, 1), every: every}
	go func() {
		for range b.ask {
			e, err := src.Next()
			b.got <- next{e, err}
		}
	}()
	return b
}

// stop lets go of the source. A call of its Next that is under way goes on until
// it returns: it may wait for a person, and the daemon that it was for is gone.
func (b *beating) stop() { close(b.ask) }

// Size implements Source.
func (b *beating) Size() uint64 { return b.src.Size() }

// Next implements Source.
func (b *beating) Next() (Extent, error) {
	if !b.asked {
		b.asked = true
		b.ask <- struct{}{}
	}
	t := time.NewTimer(b.every)
	defer t.Stop()
	select {
	case n := <-b.got:
		b.asked = false
		return n.e, n.err
	case <-t.C:
		return Extent{}, nil
	}
}
