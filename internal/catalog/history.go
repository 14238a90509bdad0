package catalog

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
)

// maxLogPage is the largest number of commits that Log returns.
const maxLogPage = 1000

// Log returns up to count commits of the volume, the newest first. If before is not "",
// they are those before the generation before, with which an earlier page ended.
func (cat *Catalog) Log(ctx context.Context, name, before string, count uint64) ([]api.Commit, error) {
	n, err := disk.ParseName(name, false)
	if err != nil {
		return nil, err
	}
	var from commitlog.Generation
	if before != "" {
		if from, err = commitlog.ParseGeneration(before); err != nil {
			return nil, err
		}
	}
	if count == 0 || count > maxLogPage {
		count = maxLogPage
	}
	out := []api.Commit{}
	if d := cat.disks.Find(n); d != nil && d.State().Published == nil {
		return out, nil // the store may have an unrelated volume of that name
	}
	err = commitlog.History(ctx, cat.disks.Store, n.Log(), from, int(count), func(o *commitlog.Object) error {
		out = append(out, api.Commit{
			Generation: o.Generation.String(), Time: o.State.Time, Kind: o.Kind.String(), Cause: string(o.State.Cause),
			Owner: o.State.Owner.ID, Size: o.State.Size, Bytes: int64(o.Size),
		})
		return nil
	})
	if errors.Is(err, commitlog.ErrPlain) && len(out) > 0 {
		err = nil // what is older is from before the tenant was sealed
	}
	return out, err
}

// Resolve finds a snapshot, a generation or a time (the AT of a fork or a rollback) in
// the volume's history in the store. If the volume was never published, whatever the
// store has under its name is not its history.
func (cat *Catalog) Resolve(ctx context.Context, n disk.Name, at string) (*commitlog.State, commitlog.Generation, error) {
	if d := cat.disks.Find(n); d != nil && d.State().Published == nil {
		return nil, commitlog.Generation{}, errs.New(errs.NotFound, "volume %q has no snapshot %q, and no history in the store: it was never published", n, at)
	}
	s, g, err := cat.lookUpAt(ctx, n, at)
	if errs.KindOf(err) == errs.NotFound && err != nil && cat.disks.Find(n) == nil {
		if _, gone := cat.Tip(ctx, n); gone != nil {
			err = gone // it says more
		}
	}
	return s, g, err
}

func (cat *Catalog) lookUpAt(ctx context.Context, n disk.Name, at string) (*commitlog.State, commitlog.Generation, error) {
	if g, err := commitlog.ParseGeneration(at); err == nil {
		o, err := commitlog.Load(ctx, cat.disks.Store, n.Log(), g)
		if errs.KindOf(err) == errs.NotFound && err != nil {
			return nil, g, errs.New(errs.NotFound, "volume %q has no generation %s in the store: glide log lists those that exist", n, at)
		}
		if err := cat.RefusePlain(ctx, n, g, o, err); err != nil {
			return nil, g, err
		}
		if o.Bare() {
			return nil, g, errs.New(errs.NotFound, "generation %s of %q is past retention or is a removal: its state is gone", at, n)
		}
		state := o.Carry()
		return &state, g, nil
	}
	when, ok := parseTime(at, cat.disks.Now())
	if !ok {
		return nil, commitlog.Generation{}, errs.New(errs.NotFound, "volume %q has no snapshot %q, and it is not a generation (like 3.10), a duration (like 30s) or an RFC 3339 time either", n, at)
	}
	if now := cat.disks.Now(); when.After(now) {
		return nil, commitlog.Generation{}, errs.New(errs.Invalid, "%s is in the future, because this host's clock says %s: leave out --at for the newest state",
			at, now.UTC().Format(time.RFC3339))
	}
	found, err := commitlog.At(ctx, cat.disks.Store, n.Log(), when)
	if errs.KindOf(err) == errs.NotFound && err != nil {
		return nil, commitlog.Generation{}, errs.New(errs.NotFound, "volume %q has no state of %s in the store: %w", n, when.Format(time.RFC3339), err)
	}
	var g commitlog.Generation
	if found != nil {
		g = found.Generation
	}
	if err := cat.RefusePlain(ctx, n, g, found, err); err != nil {
		return nil, commitlog.Generation{}, err
	}
	state := found.Carry()
	return &state, found.Generation, nil
}

// RefusePlain returns the error for a state of the past that is not to be brought back: it is
// plain, or may have something plain, and its tenant is sealed by now. err is that of reading
// the object o at a generation.
func (cat *Catalog) RefusePlain(ctx context.Context, n disk.Name, g commitlog.Generation, o *commitlog.Object, err error) error {
	if err == nil {
		sealed, _, serr := cat.disks.Tenants.Sealing(ctx, n.Tenant)
		if serr != nil || !sealed || !o.NamesPlain() || fault.Is("plain-past-brought-back") {
			return serr
		}
	} else if !errors.Is(err, commitlog.ErrPlain) {
		return err
	}
	at := "that state"
	if !g.IsZero() {
		at = "generation " + g.String()
	}
	return errs.New(errs.NotFound, "%s of %q is from before tenant %q was sealed, or has blocks from then: only what is newest, and snapshots, were moved", at, n, n.Tenant)
}

// parseTime parses a duration, which means that long before now, or an RFC 3339 time.
func parseTime(s string, now time.Time) (time.Time, bool) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), true
	}
	t, err := time.Parse(time.RFC3339, strings.ToUpper(s))
	return t, err == nil
}
