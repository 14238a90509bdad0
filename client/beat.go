package client

import "time"

// beat is how often the client tells the daemon that its source has no data yet: well
// below the minute after which the daemon takes a silent client for lost.
const beat = 10 * time.Second

// beating is a Source that returns an extent without data whenever another Source has
// returned nothing for one beat.
type beating struct {
	src   Source
	ask   chan struct{}
	got   chan next
	every time.Duration
	asked bool
}

// next is a result of Source.Next.
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

// stop abandons the source. A running call of its Next continues until it returns: it
// may wait for a person, and its result is no longer needed.
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
