package host

import (
	"fmt"
	"runtime/debug"

	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
)

// A bug that panics in one request ends that request: it is logged with its stack,
// counted, and its locks are given back. What it may have left half-done is not
// gone on with: the volume has failed, with the reason, and a start, or glide wake
// --force, takes it up again as its log and its record have it.

// Panicked notes a panic in what was being done, and is the error of the request.
func (h *Host) Panicked(doing string, value any) error {
	h.panics.Add(1)
	h.disks.Log.Error("panic in a request", "request", doing, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
	return errs.New(errs.Internal, "the daemon met a bug (%s): its log has the details", doing)
}

// PanickedAt is Panicked for a verb that was changing a volume, named as people do.
func (h *Host) PanickedAt(name, doing string, value any) error {
	err := h.Panicked(doing, value)
	if n, perr := disk.ParseName(name, true); perr == nil {
		if d := h.disks.Find(n); d != nil {
			d.FailAfterBug(err)
		}
	}
	return err
}
