package rehome

import (
	"context"
	"errors"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// volume moves a volume with its snapshots, and puts it back to sleep if it slept. It reports
// whether it changed anything.
func (r *run) volume(ctx context.Context, d *disk.Disk) (changed bool, err error) {
	before := d.State()
	for more := true; more && err == nil; {
		more, err = r.step(ctx, d)
		changed = changed || more
	}
	if before.Mode == volume.Asleep && changed {
		err = errors.Join(err, r.sleep(ctx, d, before.Released))
	}
	return changed, err
}

// sleep puts a volume back to sleep that slept before, unless a guest is connected.
func (r *run) sleep(ctx context.Context, d *disk.Disk, released bool) error {
	d.Op.Lock()
	defer d.Op.Unlock()
	open, ok := d.BlockGuestsIfNone()
	if !ok || d.Volume() == nil {
		return nil
	}
	if released {
		open() // HandOver does it itself
		return r.opts.HandOver(ctx, d)
	}
	defer open()
	if s := d.Shipper(); s != nil {
		if err := s.BarrierUnderOp(ctx); err != nil {
			return err
		}
	}
	return d.Sleep(false)
}

// step moves a part of a volume or of one of its snapshots. It reports whether there was
// something to do. It takes op.
func (r *run) step(ctx context.Context, d *disk.Disk) (bool, error) {
	d.Op.Lock()
	defer d.Op.Unlock()
	if d.Removed() || d.State().Mode == volume.Fenced {
		return false, nil
	}
	for _, s := range r.disks.SnapshotsOf(d.ID) {
		if fault.Is("snapshots-not-moved") {
			break
		}
		if done, err := r.snapshot(ctx, s); done || err != nil {
			return done, err
		}
	}
	st := d.State()
	began, err := r.owners.FirstMayBeSent(&st)
	if err != nil {
		return false, err
	}
	if st.Published == nil && !began {
		return r.part(ctx, d, r.rehome)
	}
	done, err := r.part(ctx, d, func(ctx context.Context, d *disk.Disk, p *flush.Plain) error {
		delete(r.ways, d.ID) // a commit has new content, too
		_, err := r.publisher.PublishHome(ctx, d, p, func(*commitlog.State) {})
		return err
	})
	if done || err != nil {
		return done, err
	}
	return r.say(ctx, d)
}

// snapshot is step for a snapshot.
func (r *run) snapshot(ctx context.Context, s *disk.Disk) (bool, error) {
	s.Op.Lock()
	defer s.Op.Unlock()
	if s.Removed() {
		return false, nil
	}
	slept := s.Volume() == nil && s.State().Mode == volume.Asleep
	done, err := r.part(ctx, s, r.rehome)
	if slept && done {
		err = errors.Join(err, s.Sleep(false))
	}
	return done, err
}

// rehome moves a part of a disk that no commit names. If another one with the same map was
// moved, it takes that one's over.
func (r *run) rehome(ctx context.Context, d *disk.Disk, p *flush.Plain) error {
	if twin, ok := r.twins[d.State().Root]; ok && p.From == 0 {
		if done, err := r.publisher.Adopt(ctx, d, twin); done || err != nil {
			p.Next = p.Base.Blocks()
			return err
		}
	}
	return r.publisher.Rehome(ctx, d, p)
}

// part has a part of what a disk has in plain packs stored again by do. It reports false if
// nothing of it is plain. Under op.
func (r *run) part(ctx context.Context, d *disk.Disk, do func(context.Context, *disk.Disk, *flush.Plain) error) (bool, error) {
	st := d.State()
	m, err := r.mapOf(st.Root, st.RootBlocks)
	if err != nil {
		return false, err
	}
	from, err := r.firstPlain(ctx, m, r.next[d.ID])
	if err != nil {
		return false, err
	}
	w := r.ways[d.ID]
	if from == m.Blocks() { // all was looked at; what was put in place meanwhile was not
		r.next[d.ID] = 0
		if err := r.again(d); err != nil {
			return false, err
		}
		whole, err := r.whole(ctx, st.Root)
		if err != nil {
			return false, err
		}
		if whole {
			if w.to == st.Root && !w.from.IsHole() {
				r.twins[w.from] = st.Root
			}
			return false, nil
		}
		if from, err = r.firstPlain(ctx, m, 0); err != nil {
			return false, err
		}
		if from == m.Blocks() {
			return false, errs.New(errs.Internal, "the map of %q has plain pages without plain blocks", d)
		}
	}
	if r.next[d.ID] == 0 {
		w = way{from: st.Root}
	} else if w.to != st.Root { // a flush was faster: it is not the same content
		w = way{}
	}
	p := &flush.Plain{Base: m, From: from, Most: r.most(st.BlockSize), Pace: func(ctx context.Context, n int64) error {
		r.report(ctx, uint64(n))
		return r.pace.Wait(ctx, int64(n))
	}}
	if err := do(ctx, d, p); err != nil {
		return false, err
	}
	w.to = d.State().Root
	r.next[d.ID], r.ways[d.ID] = p.Next, w
	r.moved[d.ID] = true
	r.out.Blocks += p.Taken
	r.out.Bytes += p.Taken * uint64(st.BlockSize)
	return true, nil
}

// again bounds how often a disk is looked at: what is looked at and moved stays so, unless it
// is rolled back all the time.
func (r *run) again(d *disk.Disk) error {
	if r.looks[d.ID]++; r.looks[d.ID] > 64 {
		return errs.New(errs.Busy, "what is plain of %q comes back again and again: try again", d)
	}
	return nil
}

// most is how many blocks a step takes.
func (r *run) most(blockSize uint32) uint64 {
	n := uint64(r.opts.Step)
	if r.rate > 0 {
		n = min(n, uint64(float64(r.rate)*stepTime.Seconds()))
	}
	return max(1, n/uint64(blockSize))
}

// say makes the newest commit of a volume say that nothing of it is plain, if it does not.
// Under op.
func (r *run) say(ctx context.Context, d *disk.Disk) (bool, error) {
	st := d.State()
	if st.Released {
		tip, err := commitlog.Newest(ctx, r.disks.Tenants.Strict(r.disks.Store), commitlog.Volume{Tenant: st.Tenant, Name: st.Name})
		if err == nil && !tip.NamesPlain() && !r.publisher.Changes(d) {
			return false, nil
		}
	} else if d.Owner != nil && !d.Owner.Generation().IsZero() {
		g, err := d.Owner.Resolve(ctx)
		if err == nil {
			var tip *commitlog.Object
			tip, err = commitlog.Load(ctx, r.disks.Tenants.Strict(r.disks.Store), commitlog.Volume{Tenant: st.Tenant, Name: st.Name}, g)
			if err == nil && !tip.NamesPlain() && !r.publisher.Changes(d) {
				return false, nil
			}
		}
		if err != nil && !errors.Is(err, commitlog.ErrPlain) {
			return false, err
		}
	}
	if err := r.again(d); err != nil {
		return false, err
	}
	_, err := r.publisher.Publish(ctx, d, commitlog.CauseMove, func(s *commitlog.State) { s.Domains = []uint32{r.home} })
	return err == nil, err
}

// mapOf opens a map of the tenant.
func (r *run) mapOf(root blockmap.Root, blocks uint64) (*blockmap.Map, error) {
	return blockmap.New(r.disks.Tenant(r.tenant).Pages, root, blocks)
}

// errFound ends a walk.
var errFound = errors.New("found")

// firstPlain returns the first block from an index on that is in a plain pack; the number of
// blocks if there is none.
func (r *run) firstPlain(ctx context.Context, m *blockmap.Map, from uint64) (uint64, error) {
	first := m.Blocks()
	err := m.Walk(ctx, from, m.Blocks(), func(idx uint64, ref pack.Ref) error {
		if ref.Pack.Domain == 0 {
			first = idx
			return errFound
		}
		return nil
	})
	if err == errFound {
		err = nil
	}
	return first, err
}

// whole tells whether neither a page nor a block of a map is in domain 0.
func (r *run) whole(ctx context.Context, root blockmap.Root) (bool, error) {
	if root.IsHole() {
		return true, nil
	}
	if root.Ref.Pack.Domain == 0 {
		return false, nil
	}
	m, err := r.mapOf(root, root.Span())
	if err != nil {
		return false, err
	}
	var seen []pack.Hash
	err = m.WalkPages(ctx, func(ref pack.Ref) bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.clean[ref.Hash]
	}, func(ref pack.Ref, p blockmap.Page) error {
		for _, child := range p.All() {
			if child.Pack.Domain == 0 {
				return errFound
			}
		}
		seen = append(seen, ref.Hash)
		return nil
	})
	if err == errFound {
		return false, nil
	}
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, h := range seen {
			r.clean[h] = true
		}
	}
	return err == nil, err
}

// count finds out how many bytes are to be stored again.
func (r *run) count(ctx context.Context) error {
	for _, d := range r.disks.All() {
		st := d.State()
		if disk.DomainName(&st) != r.tenant || st.Mode == volume.Fenced {
			continue
		}
		m, err := r.mapOf(st.Root, st.RootBlocks)
		if err != nil {
			return err
		}
		err = m.Walk(ctx, 0, m.Blocks(), func(_ uint64, ref pack.Ref) error {
			if ref.Pack.Domain == 0 {
				r.total += uint64(st.BlockSize)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
