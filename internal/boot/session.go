package boot

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// A boot is over when the guest has read nothing new for idleAfter, or after longest.
const (
	idleAfter = 30 * time.Second
	longest   = 5 * time.Minute
	glance    = time.Second // between looks at the clock
)

// session records one volume from its first read on. It implements readahead.Recorder.
type session struct {
	b     *Boots
	v     *volume.Volume
	image image
	left  chan struct{} // the guests have gone
	last  atomic.Uint64 // the newest block, plus 1

	mu      sync.Mutex // glide:nonblocking
	began   time.Duration
	fresh   time.Duration // when the guest last read a new block
	seen    map[uint64]struct{}
	order   []uint64
	cold    bool // the guest had to wait for the store
	follows *list
	listed  map[uint64]struct{} // the blocks of follows that were not read yet
}

func newSession(b *Boots, v *volume.Volume, im image) *session {
	return &session{b: b, v: v, image: im, left: make(chan struct{}, 1)}
}

// Read implements readahead.Recorder.
func (s *session) Read(idx uint64) {
	if s.last.Swap(idx+1) == idx+1 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	if _, known := s.seen[idx]; known || len(s.order) == maxBlocks {
		return
	}
	s.seen[idx] = struct{}{}
	s.order = append(s.order, idx)
	delete(s.listed, idx)
	s.fresh = s.b.disks.Uptime()
}

// begin begins the recording with the first read. Under mu.
func (s *session) begin() {
	if s.seen == nil {
		s.seen, s.began = map[uint64]struct{}{}, s.b.disks.Uptime()
		s.fresh = s.began
		if s.b.disks.Ctx.Err() == nil {
			s.b.disks.BG.Go(s.run)
		}
	}
}

// Missed implements readahead.Recorder.
func (s *session) Missed(uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	if !s.cold && s.b.disks.Ctx.Err() == nil {
		s.b.disks.BG.Go(s.follow)
	}
	s.cold = true
}

// poke makes the session learn what it has so far.
func (s *session) poke() {
	select {
	case s.left <- struct{}{}:
	default:
	}
}

// run waits for the end of the boot.
func (s *session) run() {
	defer s.v.Guide().Record(nil)
	t := time.NewTicker(glance)
	defer t.Stop()
	for {
		select {
		case <-s.left:
			s.learn() // perhaps the guest comes back
		case <-t.C:
			if s.over() {
				s.learn()
				return
			}
		case <-s.b.disks.Ctx.Done():
			s.learn()
			return
		}
	}
}

func (s *session) over() bool {
	now := s.b.disks.Uptime()
	s.mu.Lock()
	defer s.mu.Unlock()
	return now-s.fresh > idleAfter || now-s.began > longest || len(s.order) == maxBlocks
}

func (s *session) learn() {
	s.mu.Lock()
	read, cold := s.order[:len(s.order):len(s.order)], s.cold
	s.mu.Unlock()
	if len(read) > 0 {
		s.b.learned(s.ctx(), s.image, read, cold)
	}
}

// ctx returns the context of the session's requests.
func (s *session) ctx() context.Context {
	st := s.v.State()
	return cost.Begin(s.b.disks.Ctx, cost.Boot, st.Payer())
}

// summary describes the list that the guest's boot follows, and what the guest has read
// of it so far.
func (s *session) summary() (sum Summary, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.follows == nil {
		return Summary{}, false
	}
	return Summary{len(s.follows.Blocks), len(s.follows.Blocks) - len(s.listed)}, true
}

// follow fetches the blocks of the list.
func (s *session) follow() {
	ctx := s.ctx()
	l := s.b.listOf(ctx, s.image)
	if l == nil {
		return
	}
	s.mu.Lock()
	s.follows, s.listed = l, map[uint64]struct{}{}
	for _, idx := range l.Blocks {
		if _, read := s.seen[idx]; !read {
			s.listed[idx] = struct{}{}
		}
	}
	s.mu.Unlock()
	st := s.v.State()
	s.b.disks.Tenant(disk.DomainName(&st)).Domain.Follow(ctx, s.refs(ctx, l), int(st.BlockSize))
}

// refs yields where the blocks of a list are now.
func (s *session) refs(ctx context.Context, l *list) func(yield func(pack.Ref) bool) {
	m := s.v.Map()
	return func(yield func(pack.Ref) bool) {
		for _, idx := range l.Blocks {
			if idx >= m.Blocks() {
				continue // the list is of a larger image
			}
			ref, err := m.Lookup(ctx, idx)
			if err != nil {
				return // the guest will hear of it, if it needs the block
			}
			if !ref.IsHole() && !yield(ref) {
				return
			}
		}
	}
}
