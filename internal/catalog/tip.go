package catalog

import (
	"context"
	"sync"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"golang.org/x/sync/errgroup"
)

// TipsAtOnce is how many volumes of the store are read at the same time.
const TipsAtOnce = 32

// Catalog reads the volumes of the store. All methods may be called concurrently.
type Catalog struct {
	disks *disk.Table
	Seen  newestSeen
}

// New returns a catalog of the host's store.
func New(t *disk.Table) *Catalog { return &Catalog{disks: t} }

// EachStored calls fn, in any order and one call at a time, for every volume in the store
// for which want returns true. fn gets the newest object of the volume's log, or the
// error of reading it. The cost is one LIST per thousand keys, or per volume that has
// more than a thousand; a GET and a HEAD per volume; and another LIST for each volume
// whose tip the page did not show. Of a volume whose name is hidden, and which is not on this
// host, only its object tells the name: want is asked again then. If the object cannot be
// read, the volume goes by the name of its log.
func (cat *Catalog) EachStored(ctx context.Context, want func(disk.Name) bool, fn func(disk.Name, *commitlog.Object, error) error) error {
	ctx = objstore.WithRetryBudget(ctx) // if the store is unreachable, it is so for all of them
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(TipsAtOnce)
	var mu sync.Mutex
	names := cat.disks.LogNames()
	err := commitlog.Tenants(ctx, cat.disks.Store, func(tenant string) error {
		return commitlog.Tips(ctx, cat.disks.Store, tenant, func(log string, at commitlog.Generation) error {
			n, known := names.Of(ctx, commitlog.Volume{Tenant: tenant, Name: log})
			if !want(n) {
				return nil
			}
			g.Go(func() error {
				tip, err := cat.newest(ctx, n, func(ctx context.Context, vol commitlog.Volume) (*commitlog.Object, error) {
					if at.IsZero() {
						return commitlog.Newest(ctx, cat.disks.Store, vol)
					}
					return commitlog.NewestAt(ctx, cat.disks.Store, vol, at)
				})
				if !known && err == nil {
					if n.Volume = tip.State.Name; !want(n) {
						return nil
					}
				}
				mu.Lock()
				defer mu.Unlock()
				return fn(n, tip, err)
			})
			return ctx.Err()
		})
	})
	if werr := g.Wait(); werr != nil {
		return werr // this error also ended the listing
	}
	return err
}

// EachTip is EachStored without the removed volumes. A volume that cannot be read is an
// error.
func (cat *Catalog) EachTip(ctx context.Context, fn func(disk.Name, *commitlog.Object) error) error {
	return cat.EachStored(ctx, func(disk.Name) bool { return true }, func(n disk.Name, tip *commitlog.Object, err error) error {
		if errs.KindOf(err) == errs.NotFound && err != nil {
			return nil
		}
		if err != nil || tip.Tombstone {
			return err
		}
		return fn(n, tip)
	})
}

// maxSeen bounds the number of volumes whose newest generation is remembered.
const maxSeen = 1 << 16

// newestSeen remembers the newest generation of each volume that the store has shown to
// this process, by its log. For the host's own volumes the records have it.
type newestSeen struct {
	mu   sync.Mutex
	tips map[commitlog.Volume]commitlog.Generation
}

func (s *newestSeen) of(log commitlog.Volume) commitlog.Generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tips[log]
}

// Forget makes the logs as if they had never been seen: an operator had them removed.
func (s *newestSeen) Forget(logs []commitlog.Volume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range logs {
		delete(s.tips, v)
	}
}

func (s *newestSeen) note(n commitlog.Volume, g commitlog.Generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tips == nil {
		s.tips = map[commitlog.Volume]commitlog.Generation{}
	}
	if _, known := s.tips[n]; !known && len(s.tips) >= maxSeen {
		for old := range s.tips { // any one will do
			delete(s.tips, old)
			break
		}
	}
	if g.Compare(s.tips[n]) > 0 {
		s.tips[n] = g
	}
}

// NewestSeen returns the newest generation of a volume that the store has shown to this
// process, or zero if it has shown none.
func (cat *Catalog) NewestSeen(ctx context.Context, n disk.Name) (commitlog.Generation, error) {
	log, err := commitlog.LogOf(ctx, cat.disks.Store, n.Log())
	return cat.Seen.of(log), err
}

// newest reads the newest object of a volume's log with read.
//
// no-silent-rollback: a log does not get shorter, and does not vanish.
func (cat *Catalog) newest(ctx context.Context, n disk.Name, read func(context.Context, commitlog.Volume) (*commitlog.Object, error)) (*commitlog.Object, error) {
	before, err := cat.NewestSeen(ctx, n) // not a generation that is seen during the read
	if err != nil {
		return nil, err
	}
	o, err := read(ctx, n.Log())
	switch {
	case err == nil && o.Generation.Compare(before) < 0:
		return nil, RolledBack(n, before, "generation "+o.Generation.String())
	case err == nil:
		cat.Seen.note(o.Log(), o.Generation)
	case errs.KindOf(err) == errs.NotFound && !before.IsZero():
		return nil, RolledBack(n, before, "no such volume")
	}
	return o, err
}

// RolledBack is the error for a store that shows an older state than before.
func RolledBack(n disk.Name, before commitlog.Generation, now string) error {
	return errs.New(errs.Unsupported, "the store showed generation %s of volume %q before, and shows %s now: it lost data, or its lists are "+
		"incomplete; if it was restored from a copy on purpose, restart this daemon", before, n, now)
}

// readNewest and readListed are the two ways to read the newest object: see
// commitlog.Newest and commitlog.Listed.
func (cat *Catalog) readNewest(ctx context.Context, vol commitlog.Volume) (*commitlog.Object, error) {
	return commitlog.Newest(ctx, cat.disks.Store, vol)
}

func (cat *Catalog) readListed(ctx context.Context, vol commitlog.Volume) (*commitlog.Object, error) {
	return commitlog.Listed(ctx, cat.disks.Store, vol)
}

// Tip reads the newest object of a volume's log. A removed volume is not found.
func (cat *Catalog) Tip(ctx context.Context, n disk.Name) (*commitlog.Object, error) {
	o, err := cat.newest(ctx, n, cat.readNewest)
	return cat.CheckTip(ctx, n, o, err)
}

// Listed returns the newest object that the store's list shows. It is for a claim, which
// finds out if there is a newer one when it creates its own object.
func (cat *Catalog) Listed(ctx context.Context, n disk.Name) (*commitlog.Object, error) {
	o, err := cat.newest(ctx, n, cat.readListed)
	return cat.CheckTip(ctx, n, o, err)
}

// CheckTip checks the newest object of a volume's log, or the error of reading it, for a
// caller that wants to use the volume.
func (cat *Catalog) CheckTip(ctx context.Context, n disk.Name, o *commitlog.Object, err error) (*commitlog.Object, error) {
	if errs.KindOf(err) == errs.NotFound && err != nil || cat.disks.IsOrphan(o) {
		return nil, errs.New(errs.NotFound, "there is no volume %q, neither on this host nor in the store", n)
	}
	if err != nil {
		return nil, err
	}
	if o.Tombstone {
		if o.State.RenamedTo != "" {
			return nil, errs.New(errs.NotFound, "volume %q was renamed to %q", n, disk.Display(n.Tenant, o.State.RenamedTo, ""))
		}
		return nil, errs.New(errs.NotFound, "volume %q was removed", n)
	}
	return o, commitlog.Activated(ctx, cat.disks.Store, o)
}
