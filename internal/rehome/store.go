package rehome

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
	"github.com/paraglide/glide/internal/volume"
)

// eachLog calls fn for every log of the tenant in the store, several at a time.
func (r *run) eachLog(ctx context.Context, fn func(ctx context.Context, n disk.Name) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(catalog.TipsAtOnce)
	err := commitlog.Tips(gctx, r.disks.Store, r.tenant, func(name string, _ commitlog.Generation) error {
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			return fn(gctx, disk.Name{Tenant: r.tenant, Volume: name})
		})
		return gctx.Err()
	})
	if werr := g.Wait(); werr != nil {
		return werr // which also ended the listing
	}
	return err
}

// nobodys moves the volumes that are released in the store, and not on this host, which may
// have lost them: they are woken here, and given back.
func (r *run) nobodys(ctx context.Context) error {
	var mu sync.Mutex
	var names []disk.Name
	err := r.eachLog(ctx, func(ctx context.Context, n disk.Name) error {
		if d := r.disks.Find(n); d != nil && d.RefuseFenced() == nil {
			return nil
		}
		why, tip, err := r.newest(ctx, n)
		if err == nil && why != "" && tip.Released {
			mu.Lock()
			defer mu.Unlock()
			names = append(names, n)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := r.visit(ctx, n); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.stuck[n.String()] = err.Error()
		}
	}
	return nil
}

// visit wakes a volume here, moves it and gives it back.
func (r *run) visit(ctx context.Context, n disk.Name) error {
	if err := r.opts.Wake(ctx, n.String()); err != nil {
		return err
	}
	d, err := r.disks.Local(n.String(), false)
	if err != nil {
		return err
	}
	_, err = r.volume(ctx, d)
	d.Op.Lock()
	defer d.Op.Unlock()
	if d.Exports() > 0 {
		return err // a guest found it here, and it stays
	}
	if herr := r.opts.HandOver(ctx, d); herr != nil {
		return errors.Join(err, herr)
	}
	return errors.Join(err, r.owners.EraseAll(d))
}

// newest reads the end of a log as it is read when everything was moved. If that fails, or
// if it leads to what is plain, why says so. tip is the newest object, also then.
func (r *run) newest(ctx context.Context, n disk.Name) (why string, tip *commitlog.Object, err error) {
	strict := r.disks.Tenants.Strict(r.disks.Store)
	tip, err = commitlog.Newest(ctx, strict, n.Log())
	switch {
	case errors.Is(err, errs.NotFound):
		return "", &commitlog.Object{}, nil
	case errors.Is(err, commitlog.ErrPlain):
		tip, err = commitlog.Newest(ctx, r.disks.Store, n.Log())
		return "its newest commit is plain", tip, err
	case err != nil || tip.Bare() || tip.State.Isolated != 0: // of an isolated volume nothing was ever plain
		return "", tip, err
	}
	why, err = r.plainState(ctx, tip)
	for _, f := range tip.State.SealedFrom {
		if why == "" && err == nil {
			if why, err = r.plainCommit(ctx, n.Log(), f.Generation); why != "" {
				why = fmt.Sprintf("what it was before host %s lost it is kept, and %s: run glide tenant seal %s there, or `glide host forget %s`", f.Host, why, r.tenant, f.Host)
			}
		}
	}
	return why, tip, err
}

// plainCommit is plainState for an object of a log; one that is gone is not plain.
func (r *run) plainCommit(ctx context.Context, vol commitlog.Volume, g commitlog.Generation) (string, error) {
	o, err := commitlog.Load(ctx, r.disks.Tenants.Strict(r.disks.Store), vol, g)
	switch {
	case errors.Is(err, errs.NotFound):
		return "", nil
	case errors.Is(err, commitlog.ErrPlain):
		return fmt.Sprintf("commit %s is plain", g), nil
	case err != nil || o.Bare():
		return "", err
	}
	return r.plainState(ctx, o)
}

// plainState tells what a state has that is plain; "" if it has nothing.
func (r *run) plainState(ctx context.Context, o *commitlog.Object) (string, error) {
	for _, root := range append([]blockmap.Root{o.State.Root}, rootsOf(o.State.Snapshots)...) {
		if whole, err := r.whole(ctx, root); err != nil || !whole {
			return "blocks of it, or of a snapshot, are plain", err
		}
	}
	plain := false
	err := commitlog.Replay(ctx, r.disks.Tenants.Strict(r.disks.Store), o, func(ranges []commitlog.Range) error {
		plain = plain || slices.ContainsFunc(ranges, func(x commitlog.Range) bool { return x.Block != nil && !x.Block.IsHole() && x.Block.Pack.Domain == 0 })
		return nil
	})
	if plain || errors.Is(err, commitlog.ErrPlain) {
		return "data commits of it are plain", nil
	}
	return "", err
}

func rootsOf(snaps []commitlog.Snapshot) (list []blockmap.Root) {
	for i := range snaps {
		list = append(list, snaps[i].Root)
	}
	return list
}

// look returns what of the tenant leads to what is plain: first on this host, then in the
// store. Tombstones that are plain it writes again.
func (r *run) look(ctx context.Context) ([]api.Unsealed, error) {
	var mu sync.Mutex
	left := []api.Unsealed{}
	add := func(name, host, why string) {
		mu.Lock()
		defer mu.Unlock()
		left = append(left, api.Unsealed{Volume: name, Host: host, Reason: why})
	}
	for name, why := range r.stuck {
		add(name, r.disks.HostID, why)
	}
	for _, d := range r.disks.All() {
		st := d.State()
		if disk.DomainName(&st) != r.tenant || d.Removed() || r.fenced(d) || r.stuck[disk.Display(st.Tenant, st.Name, "")] != "" {
			continue
		}
		if whole, err := r.whole(ctx, st.Root); err != nil {
			return nil, err
		} else if !whole {
			add(d.String(), r.disks.HostID, "blocks of it are plain: run it again")
		}
	}
	err := r.eachLog(ctx, func(ctx context.Context, n disk.Name) error {
		why, tip, err := r.newest(ctx, n)
		if err == nil && why != "" && tip.Tombstone {
			why, err = r.rebury(ctx, n, tip)
		}
		if err != nil || why == "" || r.stuck[n.String()] != "" {
			return err
		}
		host := tip.State.Owner.ID
		switch {
		case tip.Released:
			host = ""
		case host != r.disks.HostID && !strings.Contains(why, "host forget"):
			why += fmt.Sprintf(": run glide tenant seal %s on host %s", r.tenant, host)
		}
		add(n.String(), host, why)
		return nil
	})
	slices.SortFunc(left, func(a, b api.Unsealed) int {
		return cmp.Or(cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Host, b.Host))
	})
	return left, err
}

// fenced tells whether a disk, or the volume it is a snapshot of, was lost to another host:
// nothing reads its map any more.
func (r *run) fenced(d *disk.Disk) bool {
	st := d.State()
	if v := r.disks.Find(disk.Name{Tenant: st.Tenant, Volume: st.Name}); v != nil {
		d = v
	}
	return d.RefuseFenced() != nil
}

// rebury writes the tombstone of a removed volume again, sealed. That of a rename in progress
// is left to its host.
func (r *run) rebury(ctx context.Context, n disk.Name, tip *commitlog.Object) (why string, err error) {
	if to := tip.State.RenamedTo; to != "" && tip.State.Owner.ID != r.disks.HostID {
		o, err := commitlog.Newest(ctx, r.disks.Store, commitlog.Volume{Tenant: n.Tenant, Name: to})
		if err != nil && !errors.Is(err, errs.NotFound) {
			return "", err
		}
		if err == nil && o.State.Reserved {
			return fmt.Sprintf("its rename to %s was not finished: glide rename again", to), nil
		}
	}
	o, err := r.owners.NewOwner(&volume.State{Tenant: n.Tenant, Name: n.Volume})
	if err == nil {
		err = o.Rebury(ctx)
	}
	if err != nil && errs.KindOf(err) == errs.Busy {
		return "its name is being used again", nil
	}
	return "", err
}

// pinned returns what pins of the tenant keep that is plain: a fork in progress, or what local
// children need, of whose volumes nothing is in the store.
func (r *run) pinned(ctx context.Context) ([]api.Unsealed, error) {
	left := []api.Unsealed{}
	r.pins.Release(ctx)
	err := pinobject.List(ctx, r.disks.Store, "", func(p pinobject.Pin) error {
		for _, key := range append(slices.Clone(p.Commits), p.Commit) {
			vol, g, err := commitlog.ParseKey(key)
			if err != nil || vol.Tenant != r.tenant {
				continue
			}
			why, err := r.plainCommit(ctx, vol, g)
			if err != nil {
				return err
			}
			if why != "" {
				left = append(left, api.Unsealed{Volume: disk.Display(vol.Tenant, vol.Name, ""), Host: p.Host, Reason: "a fork of it is being made, and " + why + ": run it again"})
			}
		}
		for _, root := range p.Roots {
			mine, err := r.mine(ctx, root)
			if err != nil {
				return err
			}
			if mine {
				left = append(left, api.Unsealed{Host: p.Host, Reason: fmt.Sprintf("it has forks or snapshots that only it knows, over plain blocks: run glide tenant seal %s there", r.tenant)})
			}
		}
		return nil
	})
	return left, err
}

// mine tells whether a root is of this tenant, and leads to what is plain.
func (r *run) mine(ctx context.Context, root blockmap.Root) (bool, error) {
	switch root.Ref.Pack.Domain {
	case r.home:
		whole, err := r.whole(ctx, root)
		return !whole, err
	case 0: // the pin does not say whose it is; the hash is keyed by the tenant's name
		_, err := r.disks.Loader.For(pack.NewHasher(r.tenant)).Page(ctx, root.Ref)
		if errors.Is(err, errs.Corrupt) || errors.Is(err, errs.NotFound) {
			return false, nil
		}
		return err == nil, err
	}
	return false, nil
}
