package host

import (
	"fmt"
	"runtime/debug"

	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
)

// A bug that panics ends only its request. The panic is logged with its stack and
// counted, and the locks of the request are released. State that it may have left
// half-changed is not used any more: the volume has failed, with the reason. The next
// start, or glide wake --force, opens it again from its log and its record.

// Panicked records a panic in a request and returns the error for the request.
func (h *Host) Panicked(doing string, value any) error {
	h.panics.Add(1)
	h.disks.Log.Error("panic in a request", "request", doing, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
	return errs.New(errs.Internal, "the daemon hit a bug (%s): its log has the details", doing)
}

// PanickedAt is Panicked for a verb that was changing a volume. name is the name as users
// write it.
func (h *Host) PanickedAt(name, doing string, value any) error {
	err := h.Panicked(doing, value)
	if n, perr := disk.ParseName(name, true); perr == nil {
		if d := h.disks.Find(n); d != nil {
			d.FailAfterBug(err)
		}
	}
	return err
}
