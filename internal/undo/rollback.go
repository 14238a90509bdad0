package undo

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/volume"
)

// headPrefix begins the names of the snapshots that rollbacks leave.
const headPrefix = "before-rollback-"

// Rollback returns a volume to a snapshot of it, or to a commit. What it gives up stays as a
// snapshot, with the writes that were never published: before-rollback- and the generation
// that the volume had in the store. Under op.
//
// The snapshot is durable before the volume changes. So a crash leaves the volume as it
// was, maybe with a snapshot of just that, or as it is to be, with the snapshot.
func (u *Undo) Rollback(ctx context.Context, d *disk.Disk, to string) error {
	v, err := d.Wake(false)
	if err != nil {
		return err
	}
	st := d.State()
	n := disk.Name{Tenant: st.Tenant, Volume: st.Name}
	to, settle, err := u.keepCommit(ctx, n, to)
	if err != nil {
		return err
	}
	published := false
	defer func() { settle(published) }()
	c, done, err := u.inspector.CutAt(ctx, n, to) // reads the commit after its announcement
	if err != nil {
		return err
	}
	defer done()
	defer d.BlockGuests()() // the snapshot is to have all that was acknowledged
	d.StopShipping(disk.ErrClosing)
	defer u.durability.StartShipping(d)
	if err := u.makeRoom(ctx, d, to); err != nil {
		return err
	}
	var head *disk.Disk
	err = u.publisher.Rollback(ctx, d, v, c, func() (err error) {
		head, err = u.snapshot(d, v, u.headName(&st), time.Time{})
		return err
	})
	if err != nil {
		if head != nil && v.Err() == nil { // else nobody knows whether the volume was rolled back
			head.Op.Lock()
			defer head.Op.Unlock()
			_ = u.owners.Erase(head) // it is a copy of what the volume has
		}
		return err
	}
	if st.Published != nil {
		// The store must not continue to show the state that was given up.
		if _, err := u.publisher.Publish(ctx, d, commitlog.CauseRollback, func(*commitlog.State) {}); err != nil {
			u.disks.Log.Warn("a rollback is not in the store yet", "volume", d.String(), "error", err)
		} else {
			published = true
		}
	}
	return nil
}

// headName is a free name for the snapshot of the state that a rollback gives up.
func (u *Undo) headName(st *volume.State) string {
	free := func(name string) bool {
		return u.disks.Find(disk.Name{Tenant: st.Tenant, Volume: st.Name, Snapshot: name}) == nil
	}
	name, form := headPrefix+"0.1", headPrefix+"0.%d" // of a volume that has no generation
	if st.Published != nil {
		name = headPrefix + disk.Generation(st.Published).String()
		form = name + "-%d"
	}
	for n := 2; !free(name); n++ {
		name = fmt.Sprintf(form, n)
	}
	return name
}

// makeRoom makes room for one more snapshot if the volume has as many as it may have. The
// oldest one that a rollback left goes, but not the one to roll back to. Under op.
func (u *Undo) makeRoom(ctx context.Context, d *disk.Disk, to string) error {
	snaps := u.disks.SnapshotsOf(d.ID)
	if len(snaps) < commitlog.MaxSnapshots {
		return nil
	}
	for _, s := range snaps {
		name := s.State().Snapshot
		if !strings.HasPrefix(name, headPrefix) || name == to {
			continue
		}
		if gone, err := u.discard(ctx, d, s); err != nil || gone {
			return err
		}
	}
	return errs.New(errs.Invalid, "volume %q has %d snapshots, which is the limit, and a rollback keeps what it gives up as another: remove some with glide rm %s@NAME", d, len(snaps), d)
}

// keepCommit announces the commit of the volume that to means, unless it means a snapshot
// of this host, and returns its generation as text. settle ends the announcement once
// the volume's newest commit has the same content; if it has not, and the volume lies over
// that state, the state stays pinned. reachable-is-kept.
func (u *Undo) keepCommit(ctx context.Context, n disk.Name, to string) (_ string, settle func(published bool), _ error) {
	if u.disks.Find(disk.Name{Tenant: n.Tenant, Volume: n.Volume, Snapshot: to}) != nil {
		return to, func(bool) {}, nil
	}
	state, g, err := u.catalog.Resolve(ctx, n, to)
	if err != nil {
		return "", nil, err
	}
	key, err := u.disks.KeyOf(ctx, n, g)
	if err != nil {
		return "", nil, err
	}
	drop, err := u.pins.PinFork(ctx, key)
	if err != nil {
		return "", nil, err
	}
	kept, err := u.spare(ctx, n, g, state)
	if err == nil && !kept {
		err = errs.New(errs.NotFound, "commit %s of volume %q is past retention and is being collected: roll back to a newer one", g, n)
	}
	if err != nil {
		return "", nil, errors.Join(err, drop(context.WithoutCancel(ctx)))
	}
	return g.String(), func(published bool) {
		ctx := context.WithoutCancel(ctx)
		err := error(nil)
		if d := u.disks.Find(n); !published && d != nil && d.State().Root == state.Root {
			err = u.pins.KeepStale(ctx, state.Root)
		}
		if err == nil {
			err = drop(ctx)
		}
		if err != nil {
			u.disks.Log.Warn("a pin was not dropped", "error", err)
		}
	}, nil
}
