package host

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/datadir"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/reserve"
	"github.com/paraglide/glide/internal/size"
)

// upkeepEvery is how often the host checks its disk.
const upkeepEvery = 2 * time.Second

// Space reserved on the data directory's disk, to finish work in progress when the disk
// is full: records of volumes, and the start after a crash.
const (
	reservePieces = 16
	reservePiece  = 4 << 20 // bytes of each, less on small disks
)

// reserveOptions returns how much space is reserved on a disk of total bytes.
func (h *Host) reserveOptions(total uint64) reserve.Options {
	fs := h.cfg.FS
	o := reserve.Options{
		FS: fs, Dir: fs.PathJoin(h.cfg.Data, "reserve"), Pieces: reservePieces,
		Bytes: int64(min(reservePiece, max(total/64/reservePieces, 64<<10))), Keep: lowRoom(total),
	}
	if _, err := fs.GetDiskUsage(h.cfg.Data); errors.Is(err, vfs.ErrUnsupported) {
		o.Bytes = 4096 // a file system in memory
	}
	return o
}

// lowRoom returns the free space in bytes below which nothing new is begun.
func lowRoom(total uint64) uint64 { return min(64<<20, total/64) }

// upkeep runs as long as the host. It keeps the reserve filled, makes the metadata
// writable again when the disk permits it, and finds files that were removed.
func (h *Host) upkeep() {
	full := false
	for n := 0; ; n++ {
		full = h.keepRoom(full)
		if h.disks.DB.Err() == nil || !h.disks.DB.Stuck() || n%stuckEvery == 0 {
			_ = h.disks.DB.Revive() // metaChanged reports the result
		}
		if n%missingEvery == 0 {
			h.findMissing()
			h.cleaner.FindIdle()
		}
		if n%expireEvery == 0 && h.expiring.CompareAndSwap(false, true) {
			h.bg.Go(func() { // the store may be slow
				defer h.expiring.Store(false)
				h.undo.Expire(h.disks.Ctx)
			})
		}
		if n%keysEvery == keysEvery-1 && h.renewing.CompareAndSwap(false, true) {
			h.bg.Go(func() {
				defer h.renewing.Store(false)
				h.disks.Tenants.Refresh(cost.Begin(h.disks.Ctx, cost.Upkeep, cost.Volume{}))
			})
		}
		if clock.Pause(h.disks.Ctx, upkeepEvery) != nil {
			return
		}
	}
}

const (
	stuckEvery   = 30 // rounds between attempts to open a database that does not open although the disk takes writes
	expireEvery  = 30 // rounds between looks for expired snapshots
	keysEvery    = 60 // rounds between looks for newer keys of the tenants in use
	missingEvery = 5  // rounds between checks for removed files and idle volumes
)

// keysLost disconnects the guests of a domain that has lost its keys, if it is to be so.
func (h *Host) keysLost(domain string, why error) {
	n := 0
	for _, d := range h.disks.All() {
		if st := d.State(); h.cfg.OnRevoke == RevokeStop && disk.DomainName(&st) == domain {
			n += d.Exports()
			d.Disconnect()
		}
	}
	h.disks.Event(event.Host, "", "tenant %q has lost its keys, and %d of its NBD connections were ended: %v", domain, n, why)
}

// keepRoom refills the reserve. It reports an event when that fails, and another when it
// succeeds again.
func (h *Host) keepRoom(full bool) bool {
	err := h.room.Fill()
	if now := err != nil; now != full {
		if full = now; full {
			h.disks.Event(event.Disk, "", "%v", h.fullError(err))
		} else {
			h.disks.Event(event.Disk, "", "the disk under %s has room again", h.cfg.Data)
		}
	}
	return full
}

// mayGrow returns an error if nothing new may be begun that takes disk space. A verb
// whose result could not be recorded must fail before it has done anything.
func (h *Host) mayGrow() error {
	if err := h.disks.DB.Err(); err != nil {
		if err := h.disks.DB.Revive(); err != nil {
			return err
		}
	}
	u, err := h.cfg.FS.GetDiskUsage(h.cfg.Data)
	switch {
	case errors.Is(err, vfs.ErrUnsupported): // a file system in memory
		return nil
	case err != nil:
		return datadir.Unusable(h.cfg.Data, err)
	case u.AvailBytes < lowRoom(u.TotalBytes):
		return h.fullError(nil)
	}
	return nil
}

// lockToChange takes the op of a disk that a command is about to change. It is an
// error if the change could not be recorded, or if the disk was fenced.
func (h *Host) lockToChange(d *disk.Disk) (unlock func(), err error) {
	if err := h.mayGrow(); err != nil {
		return nil, err
	}
	d.Op.Lock()
	if err := d.RefuseFenced(); err != nil {
		d.Op.Unlock()
		return nil, err
	}
	return d.Op.Unlock, nil
}

// fullError returns the error that says that the disk is full and what to do.
func (h *Host) fullError(err error) error {
	free := "little is"
	if u, uerr := h.cfg.FS.GetDiskUsage(h.cfg.Data); uerr == nil {
		free = size.Human(u.AvailBytes) + " are"
	}
	if err != nil && !reserve.IsFull(err) {
		return errs.New(errs.NoSpace, "the disk under %s does not take writes: %w", h.cfg.Data, err)
	}
	return errs.New(errs.NoSpace, "the disk under %s is full, %s free: make room there; work then resumes by itself", h.cfg.Data, free)
}

// heartbeatFile is the file that Alive writes.
const heartbeatFile = "heartbeat"

// Alive returns when every volume has reported its state and the disk of the log has
// synced a write. A daemon that hangs does not return; a disk with a problem is an error.
func (h *Host) Alive(ctx context.Context) error {
	if _, err := h.List(ctx, false); err != nil {
		return err
	}
	f, err := h.cfg.FS.OpenReadWrite(h.cfg.FS.PathJoin(h.cfg.Data, heartbeatFile), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(h.disks.Now().UnixNano())), 0)
	if err == nil {
		err = f.SyncData()
	}
	return errors.Join(err, f.Close())
}

// metaChanged is called when the metadata cannot be written, and when it can be again.
func (h *Host) metaChanged(err error) {
	if err != nil {
		h.disks.Event(event.Disk, "", "%v", err)
		return
	}
	h.disks.Event(event.Disk, "", "the metadata in %s can be written again", h.cfg.Data)
}

// findMissing reports files that were removed while the daemon runs, once per change.
func (h *Host) findMissing() {
	told := ""
	if err := h.missing(); err != nil {
		told = err.Error()
	}
	if before := h.missingReported.Swap(&told); told != "" && (before == nil || *before != told) {
		h.disks.Event(event.Disk, "", "%s", told)
	}
}

// missing returns an error that names the files in use that are no longer in the data
// directory.
func (h *Host) missing() error {
	if err := h.dir.Check(); err != nil {
		return err
	}
	if gone := h.disks.WAL.Missing(); len(gone) > 0 {
		return errs.New(errs.Unavailable, "log segments were removed while they are in use, %s: what they hold is lost when the daemon ends; flush the volumes to the store now (glide flush)", strings.Join(gone, ", "))
	}
	if gone := h.disks.Cache.Missing(); len(gone) > 0 {
		return errs.New(errs.Unavailable, "cache files were removed while they are in use, %s: they take disk until the daemon is restarted, and no data is lost", strings.Join(gone, ", "))
	}
	if _, err := h.cfg.FS.Stat(h.cfg.FS.PathJoin(h.cfg.Data, "meta")); errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.Unavailable, "the metadata was removed from %s: put it back, or flush all volumes to the store before the daemon ends", h.cfg.Data)
	}
	return datadir.CheckIdentity(h.cfg.FS, h.cfg.Data, h.disks.HostID)
}
