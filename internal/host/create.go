package host

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/durability"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/retention"
	"github.com/paraglide/glide/internal/volume"
)

// Create creates an empty volume. A local volume makes no store request; any other claims
// its name in the store at once.
func (h *Host) Create(ctx context.Context, r api.CreateRequest) (api.Volume, error) {
	ctx = cost.With(ctx, cost.Manage, cost.Volume{})
	n, err := disk.ParseName(r.Name, false)
	if err != nil {
		return api.Volume{}, err
	}
	if err := disk.CheckSize(r.Size); err != nil {
		return api.Volume{}, err
	}
	if err := durability.CheckDurability(r.Durability); err != nil {
		return api.Volume{}, err
	}
	if err := h.mayGrow(); err != nil {
		return api.Volume{}, err
	}
	st := h.disks.NewState(n, r.Size)
	if r.BlockSize != 0 {
		if r.BlockSize < 4096 || r.BlockSize > 1<<20 || r.BlockSize&(r.BlockSize-1) != 0 {
			return api.Volume{}, errs.New(errs.Invalid, "a block size of %d is not a power of two from 4K to 1M", r.BlockSize)
		}
		st.BlockSize = uint32(r.BlockSize)
	}
	p := durability.Policy{Durability: cmp.Or(r.Durability, disk.Local), RPO: st.RPO}
	if r.RPOms != 0 {
		if err := durability.CheckRPO(time.Duration(r.RPOms * 1e6)); err != nil {
			return api.Volume{}, err
		}
		p.RPO = time.Duration(r.RPOms * 1e6)
	}
	st.RPO = p.RPO
	if st.Blocks() > 1<<50 {
		return api.Volume{}, errs.New(errs.Invalid, "%d bytes are too many blocks of %d bytes: use a larger --block-size", r.Size, st.BlockSize)
	}
	if r.Isolate {
		if h.disks.Find(n) != nil {
			return api.Volume{}, disk.OnThisHost(n)
		}
		if st.Isolated, err = h.disks.Tenants.Isolate(ctx, n.Tenant); err != nil {
			return api.Volume{}, err
		}
	}
	finish := func() error { return nil }
	if p.Ships() {
		if finish, err = h.disks.BeginCreate(&st); err != nil {
			return api.Volume{}, err
		}
	}
	d, err := h.disks.Add(st)
	if err != nil && r.Isolate {
		err = errors.Join(err, h.disks.Tenants.Drop(context.WithoutCancel(ctx), n.Tenant, st.Isolated))
	}
	if err == nil {
		err = h.durability.ApplyPolicy(ctx, p, commitlog.CauseCreate, d)
	}
	if err = errors.Join(err, finish()); err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// Resize grows a volume. The store learns of it with the next flush.
func (h *Host) Resize(_ context.Context, name string, size uint64) (api.Volume, error) {
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	if err := disk.CheckSize(size); err != nil {
		return api.Volume{}, err
	}
	unlock, err := h.lockToChange(d)
	if err != nil {
		return api.Volume{}, err
	}
	defer unlock()
	st := d.State()
	if size < st.Size {
		return api.Volume{}, errs.New(errs.Unsupported, "volume %q has %d bytes: shrinking it to %d would cut off data", d, st.Size, size)
	}
	if st.Size = size; st.Blocks() > 1<<50 {
		return api.Volume{}, errs.New(errs.Invalid, "%d bytes are too many blocks of %d bytes", size, st.BlockSize)
	}
	v, err := d.Wake(false)
	if err != nil {
		return api.Volume{}, err
	}
	if err := v.Resize(size); err != nil {
		return api.Volume{}, err
	}
	if err := h.attachments.Resized(d); err != nil {
		return api.Volume{}, err
	}
	return h.view(d), nil
}

// Set changes settings of a volume. It changes all of them or none, except that a new
// policy stays if saving the others fails.
func (h *Host) Set(ctx context.Context, name string, s api.Settings) (api.Volume, error) {
	ctx = h.purpose(ctx, cost.Manage, name)
	d, err := h.disks.Local(name, false)
	if err != nil {
		return api.Volume{}, err
	}
	unlock, err := h.lockToChange(d)
	if err != nil {
		return api.Volume{}, err
	}
	defer unlock()
	st := d.State()
	next := st
	next.Labels = map[string]string{}
	for k, v := range st.Labels {
		next.Labels[k] = v
	}
	for k, v := range s {
		if err := apply(&next, k, v); err != nil {
			return api.Volume{}, err
		}
	}
	if err := h.durability.SetPolicy(ctx, d, durability.Policy{Durability: next.Durability, RPO: next.RPO}); err != nil { // if this fails, nothing is set
		return api.Volume{}, err
	}
	if next.Limits != st.Limits || next.Keep != st.Keep || !maps.Equal(next.Labels, st.Labels) {
		if err := d.Change(func(r *volume.State) {
			r.Limits, r.Labels, r.Keep, r.Unsaid = next.Limits, next.Labels, next.Keep, r.Published != nil
		}); err != nil {
			return api.Volume{}, err
		}
		h.owners.Keep(d)
	}
	d.Limiter.Set(next.Limits, h.disks.Now)
	h.cleaner.NoteBudget(&next)
	return h.view(d), nil
}

// apply changes one setting of a record.
func apply(st *volume.State, key, value string) (err error) {
	switch {
	case key == "durability":
		if value == "" {
			return errs.New(errs.Invalid, "durability= needs a value: choose local, continuous or sync")
		}
		if err := durability.CheckDurability(value); err != nil {
			return err
		}
		st.Durability = value
	case key == "rpo":
		d, err := time.ParseDuration(value)
		if err != nil {
			return errs.New(errs.Invalid, "rpo=%s is not a duration, like 5s", value)
		}
		if err := durability.CheckRPO(d); err != nil {
			return err
		}
		st.RPO = d
	case key == "iops":
		st.Limits.IOPS, err = number(key, value)
	case key == "bandwidth":
		st.Limits.Bandwidth, err = number(key, value)
	case key == "dirty-budget":
		st.Limits.DirtyBudget, err = number(key, value)
	case key == "keep":
		_, err = retention.Parse(value)
		st.Keep = value
	case strings.HasPrefix(key, "label."):
		label := strings.TrimPrefix(key, "label.")
		if !commitlog.ValidName(label) || len(value) > commitlog.MaxText {
			return errs.New(errs.Invalid, "label %q is not valid: it needs 1 to 100 letters, digits, dots, underscores and hyphens, and a value of at most %d bytes", label, commitlog.MaxText)
		}
		if delete(st.Labels, label); value != "" {
			st.Labels[label] = value
		}
		if len(st.Labels) > commitlog.MaxLabels {
			return errs.New(errs.Invalid, "a volume can have at most %d labels", commitlog.MaxLabels)
		}
	default:
		return errs.New(errs.Invalid, "there is no setting %q: the settings are durability, rpo, iops, bandwidth, dirty-budget, keep and label.KEY", key)
	}
	return err
}

// number parses a count, or a size with a binary suffix. 0 removes a limit.
func number(key, value string) (uint64, error) {
	digits, shift := value, 0
	if i := len(value) - 1; i > 0 {
		if s := strings.IndexByte("KMGT", value[i]); s >= 0 {
			digits, shift = value[:i], 10*(s+1)
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63-shift)
	if err != nil {
		return 0, errs.New(errs.Invalid, "%s=%s is not a number, which may end in K, M, G or T", key, value)
	}
	return n << shift, nil
}
