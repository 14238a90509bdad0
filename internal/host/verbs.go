package host

import (
	"context"
	"io"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/inspect"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/nbd"
)

// Exports returns the host's exporter for an NBD server.
func (h *Host) Exports() nbd.Exporter { return h.exports }

// Events returns the events after the one with the given number, the oldest first; 0
// means all that are kept. If there is none, it waits for one for at most wait.
func (h *Host) Events(ctx context.Context, after uint64, wait time.Duration) ([]api.Event, error) {
	return h.disks.Events.After(ctx, h.disks.Ctx, after, wait), nil
}

// Fork forks one cut of a volume, a snapshot or a commit. It makes all forks or none.
func (h *Host) Fork(ctx context.Context, r api.ForkRequest) ([]api.Fork, error) {
	return h.forker.Fork(ctx, r)
}

// lost raises the alarm for a block or page that somebody needs and the store has not:
// once for many of one pack in a row, since guests try again.
func (h *Host) lost(ref *pack.Ref) {
	if last := h.lastLost.Swap(&ref.Pack); last != nil && *last == ref.Pack {
		return
	}
	h.disks.Event(event.Store, "", "ALARM: %s is gone from the store, and a reader needs %d bytes at %d of it: glide scrub tells which volumes; keep the collector off (--gc off)", ref.Pack.Key(), ref.Len, ref.Off)
}

// Collect goes on with a round of garbage collection in the store, or begins one.
func (h *Host) Collect(ctx context.Context, r api.CollectRequest) (api.Collection, error) {
	return h.collector.Collect(ctx, r)
}

// CollectPlan lists what the open rounds have flagged.
func (h *Host) CollectPlan(ctx context.Context) ([]api.Planned, error) { return h.collector.Plan(ctx) }

// CollectStatus describes the newest round.
func (h *Host) CollectStatus(ctx context.Context) (api.CollectStatus, error) {
	return h.collector.Status(ctx)
}

// Undelete takes flagged objects back.
func (h *Host) Undelete(ctx context.Context, keys []string) error {
	return h.collector.Undelete(ctx, keys)
}

// Attach makes a volume or a snapshot a block device of this machine.
func (h *Host) Attach(ctx context.Context, name string, r api.AttachRequest) (api.Attachment, error) {
	return h.attachments.Attach(ctx, name, r)
}

// Detach removes the device of a volume, after everything written to it is durable. A
// device in use is refused, unless r.Force is set.
func (h *Host) Detach(ctx context.Context, r api.DetachRequest) (api.Attachment, error) {
	return h.attachments.Detach(ctx, r)
}

// Log returns up to count commits of the volume, the newest first. If before is not "",
// they are those before the generation before, with which an earlier page ended.
func (h *Host) Log(ctx context.Context, name, before string, count uint64) ([]api.Commit, error) {
	ctx = h.purpose(ctx, cost.List, name)
	return h.catalog.Log(ctx, name, before, count)
}

// Usage returns what a volume, a snapshot, or everything on this host uses. It is exact
// over this host's volumes.
func (h *Host) Usage(ctx context.Context, name string) (api.Usage, error) {
	ctx = h.purpose(ctx, cost.List, name)
	return h.inspector.Usage(ctx, name)
}

// Diff returns where two volumes differ and how much they share.
func (h *Host) Diff(ctx context.Context, a, b string) (api.Diff, error) {
	ctx = cost.With(ctx, cost.List, cost.Volume{})
	return h.inspector.Diff(ctx, a, b)
}

// Verify reads all of a volume and checks the log against its checksums and every block
// against its hash. With cold, it reads blocks from the store even if a tier has them.
func (h *Host) Verify(ctx context.Context, name string, cold bool) (api.Verify, error) {
	ctx = h.purpose(ctx, cost.Verify, name)
	return h.inspector.Verify(ctx, name, cold)
}

// Hydrate brings every block of a volume to this host. It reads at most rate bytes per
// second from the store; 0: no limit.
func (h *Host) Hydrate(ctx context.Context, name string, rate uint64) (api.Hydrate, error) {
	ctx = h.purpose(ctx, cost.Hydrate, name)
	if err := h.mayGrow(); err != nil {
		return api.Hydrate{}, err
	}
	return h.hydrator.Hydrate(ctx, name, rate)
}

// Custody returns the verbs that are about tenants and their keys.
func (h *Host) Custody() api.TenantKeeper { return h.custody }

// Scrub checks what this host and the store hold, or one of them, and repairs it.
func (h *Host) Scrub(ctx context.Context, r api.ScrubRequest) (api.Scrub, error) {
	return h.scrubber.Scrub(ctx, r)
}

// Export opens the current cut of a volume, or a snapshot, for reading. A volume that
// only the store has is read as it was last published.
func (h *Host) Export(ctx context.Context, name string) (api.Exported, error) {
	ctx = h.purpose(ctx, cost.Export, name)
	return h.inspector.Export(ctx, name)
}

// Dump writes an object of the store as text.
func (h *Host) Dump(ctx context.Context, key string, w io.Writer) error {
	ctx = cost.With(ctx, cost.List, cost.Volume{})
	if vol, g, err := commitlog.ParseKey(key); err == nil { // it may be asked for by a name that is hidden
		if of, err := commitlog.KeyOf(ctx, h.disks.Store, vol, g); err == nil {
			key = of
		}
	}
	raw, err := h.disks.Store.Get(ctx, key)
	if err != nil {
		return err
	}
	return inspect.DumpObject(ctx, w, key, raw, h.disks.Tenants)
}
