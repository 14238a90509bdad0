package host

import (
	"context"
	"io"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/inspect"
	"github.com/paraglide/glide/nbd"
)

// Exports is the host as an NBD server sees it.
func (h *Host) Exports() nbd.Exporter { return h.exports }

// Events returns what happened after the event with the given number (0: all that
// is remembered), the oldest first. If there is nothing it waits for as long
// as told, for something to happen.
func (h *Host) Events(ctx context.Context, after uint64, wait time.Duration) ([]api.Event, error) {
	return h.disks.Events.After(ctx, h.disks.Ctx, after, wait), nil
}

// Attach makes a volume or a snapshot a block device of this machine.
func (h *Host) Attach(ctx context.Context, name string, r api.AttachRequest) (api.Attachment, error) {
	return h.attachments.Attach(ctx, name, r)
}

// Detach takes the device of a volume away, once all that was written to it is
// durable. One that somebody uses is refused, unless it is forced.
func (h *Host) Detach(ctx context.Context, r api.DetachRequest) (api.Attachment, error) {
	return h.attachments.Detach(ctx, r)
}

// Log lists a page of the volume's commits, the newest first: count of them, those
// before a generation that an earlier page ended with, if that is not "".
func (h *Host) Log(ctx context.Context, name, before string, count uint64) ([]api.Commit, error) {
	return h.catalog.Log(ctx, name, before, count)
}

// Usage tells what a volume, or all of this host's, use. It is exact over this
// host's volumes, and costs a walk through the block maps of all of them.
func (h *Host) Usage(ctx context.Context, name string) (api.Usage, error) {
	return h.inspector.Usage(ctx, name)
}

// Diff tells where two volumes differ and how much they share.
func (h *Host) Diff(ctx context.Context, a, b string) (api.Diff, error) {
	return h.inspector.Diff(ctx, a, b)
}

// Verify reads all of a volume and checks it: what the log holds against its
// checksums, and every block against its hash; cold reads blocks from the store
// even if a tier has them.
func (h *Host) Verify(ctx context.Context, name string, cold bool) (api.Verify, error) {
	return h.inspector.Verify(ctx, name, cold)
}

// Hydrate brings every block of a volume to this host, at no more than rate bytes of
// the store a second; 0: no limit.
func (h *Host) Hydrate(ctx context.Context, name string, rate uint64) (api.Hydrate, error) {
	if err := h.mayGrow(); err != nil {
		return api.Hydrate{}, err
	}
	return h.hydrator.Hydrate(ctx, name, rate)
}

// Export opens the present cut of a volume, or a snapshot, for reading. A volume
// of the store that is not on this host is read as it was last published.
func (h *Host) Export(ctx context.Context, name string) (api.Exported, error) {
	return h.inspector.Export(ctx, name)
}

// Dump writes an object of the store as text.
func (h *Host) Dump(ctx context.Context, key string, w io.Writer) error {
	raw, err := h.disks.Store.Get(ctx, key)
	if err != nil {
		return err
	}
	return inspect.DumpObject(w, key, raw)
}
