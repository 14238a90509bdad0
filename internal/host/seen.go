package host

import (
	"context"
	"sync"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
)

// maxSeen bounds the volumes of which a host remembers the newest generation.
const maxSeen = 1 << 16

// seen remembers the newest generation of each volume that the store showed to
// this process. Its own volumes have it in their records.
type newestSeen struct {
	mu   sync.Mutex
	tips map[Name]commitlog.Generation
}

func (s *newestSeen) of(n Name) commitlog.Generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tips[n]
}

func (s *newestSeen) note(n Name, g commitlog.Generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tips == nil {
		s.tips = map[Name]commitlog.Generation{}
	}
	if _, known := s.tips[n]; !known && len(s.tips) >= maxSeen {
		for old := range s.tips { // any of them
			delete(s.tips, old)
			break
		}
	}
	if g.Compare(s.tips[n]) > 0 {
		s.tips[n] = g
	}
}

// newest reads the newest object of a volume's log in the given way.
//
// no-silent-rollback: a log does not get shorter, and does not vanish.
func (h *Host) newest(ctx context.Context, n Name, read func(context.Context, commitlog.Volume) (*commitlog.Object, error)) (*commitlog.Object, error) {
	before := h.seen.of(n) // not what is seen meanwhile
	o, err := read(ctx, n.log())
	switch {
	case err == nil && o.Generation.Compare(before) < 0:
		return nil, rolledBack(n, before, "generation "+o.Generation.String())
	case err == nil:
		h.seen.note(n, o.Generation)
	case errs.KindOf(err) == errs.NotFound && !before.IsZero():
		return nil, rolledBack(n, before, "no such volume")
	}
	return o, err
}

func rolledBack(n Name, before commitlog.Generation, now string) error {
	return errs.New(errs.Unsupported, "the store showed generation %s of volume %q before, and shows %s now: it lost what was written, or its lists are not "+
		"complete; if it was restored from a copy on purpose, restart this daemon", before, n, now)
}

// readNewest and readListed are ways to read it: see commitlog.Newest and Listed.
func (h *Host) readNewest(ctx context.Context, vol commitlog.Volume) (*commitlog.Object, error) {
	return commitlog.Newest(ctx, h.cfg.Store, vol)
}

func (h *Host) readListed(ctx context.Context, vol commitlog.Volume) (*commitlog.Object, error) {
	return commitlog.Listed(ctx, h.cfg.Store, vol)
}
