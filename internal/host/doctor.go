package host

import (
	"context"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/volume"
)

// checks collects what doctor finds.
type checks []api.Check

// add adds a check. It passes with detail if err is nil; otherwise it fails with err, and
// fix says what to do.
func (c *checks) add(name string, err error, detail, fix string) {
	check := api.Check{Name: name, OK: err == nil, Detail: detail}
	if err != nil {
		check.Detail, check.Fix = err.Error(), fix
	}
	*c = append(*c, check)
}

// Doctor checks what the host depends on.
func (h *Host) Doctor(ctx context.Context) ([]api.Check, error) {
	ctx = cost.With(ctx, cost.List, cost.Volume{})
	var c checks
	err := objstore.Probe(ctx, h.disks.Store, fmt.Sprintf("%s-%016x", h.disks.HostID, h.disks.Random64()))
	c.add("store", err, h.cfg.StoreURL+" answers, and has every property that a store must have", "check --store, its credentials and its network; local volumes work without it")
	h.checkDisk(&c)
	c.add("identity", h.owners.TwinNoticed(), "host "+h.disks.HostID, "only one daemon may use a data directory or a copy of it: stop one of the two, and give it an empty data directory; glide hosts shows where the other one is")
	h.checkLimits(&c)
	h.checkFaults(&c)
	c.add("kernel devices", nil, kernelnbd.Describe(h.attachments.Kernel.Check()), "")
	h.checkVolumes(&c)
	return c, nil
}

// checkDisk checks the data directory and its disk.
func (h *Host) checkDisk(c *checks) {
	u, err := h.cfg.FS.GetDiskUsage(h.cfg.Data)
	if err == nil && u.AvailBytes < min(u.TotalBytes/20, 2<<30) {
		err = errs.New(errs.NoSpace, "only %d of %d bytes are free under %s", u.AvailBytes, u.TotalBytes, h.cfg.Data)
	}
	c.add("disk", ignoreUnsupported(err), fmt.Sprintf("%d of %d bytes are free under %s", u.AvailBytes, u.TotalBytes, h.cfg.Data), "remove volumes, flush some to the store, or lower --cache and --wal-limit")
	used, files := h.disks.WAL.Used()
	var werr error
	if l := h.disks.WAL.Limit(); l > 0 && float64(used) > 0.95*float64(l) {
		werr = errs.New(errs.NoSpace, "the log holds %d of at most %d bytes", used, l)
	}
	c.add("log", werr, fmt.Sprintf("%d bytes in use, %d on disk", used, files), "flush volumes to the store, or raise --wal-limit")
	merr := h.disks.DB.Err()
	if merr == nil {
		merr = h.missing()
	}
	c.add("data directory", merr, h.cfg.Data+" has what the daemon needs, and can be written to", "glide events shows since when")
	left, of := h.room.Left()
	var rerr error
	if left < of && ignoreUnsupported(err) == nil {
		if rerr = h.room.Fill(); rerr != nil {
			rerr = errs.New(errs.NoSpace, "of the %s that are reserved for a full disk, only %s are left", size.Human(uint64(of)), size.Human(uint64(left)))
		}
	}
	c.add("reserved room", rerr, size.Human(uint64(of))+" are reserved for a full disk", "make room under "+h.cfg.Data)
}

// checkLimits checks the process's use of the system's limits.
func (h *Host) checkLimits(c *checks) {
	for _, u := range h.cfg.Limits() {
		var err error
		if u.Near() {
			err = errs.New(errs.NoSpace, "%d of at most %d are in use", u.Used, u.Limit)
		}
		detail := fmt.Sprintf("%d in use", u.Used)
		if u.Limit > 0 {
			detail += fmt.Sprintf(", of at most %d", u.Limit)
		}
		c.add(strings.ReplaceAll(u.Name, "_", " "), err, detail, u.Fix)
	}
}

// checkFaults reports what went wrong since the daemon started.
func (h *Host) checkFaults(c *checks) {
	if n := h.panics.Load(); n > 0 {
		c.add("bugs", errs.New(errs.Internal, "a bug ended %d requests", n), "", "send the stack traces in the daemon's log to glide's maintainers")
	}
	if err := h.cleaner.FlushError(); err != nil {
		c.add("flushing", err, "", "a volume is over its dirty budget, and the store does not take its data")
	}
	s := &h.disks.Cache.Stats
	if n := s.Repaired.Load() + s.Damaged.Load(); n > 0 {
		c.add("blocks", errs.New(errs.Corrupt, "%d blocks came damaged from the cache and %d from the store", s.Repaired.Load(), s.Damaged.Load()), "", "check the disk; glide verify --cold shows what the store has")
	}
	if n := h.disks.WAL.Stats.Damaged.Load(); n > 0 {
		c.add("log records", errs.New(errs.Corrupt, "reads of the log found bytes that do not match their checksum, %d times", n), "", "check the disk; glide events shows which volumes have lost data")
	}
}

// checkVolumes reports every volume that has a problem.
func (h *Host) checkVolumes(c *checks) {
	bad := 0
	for _, d := range h.disks.All() {
		if v := h.view(d); v.State == string(volume.Failed) || v.State == string(volume.Fenced) {
			c.add("volume "+v.Name, errs.New(errs.Internal, "it is %s: %s", v.State, v.Reason), "", "glide show "+v.Name)
			bad++
		} else if damage := d.LogDamage(); damage != nil {
			c.add("volume "+v.Name, errs.New(errs.Corrupt, "%s", damagedLog(damage)), "", "check the disk; glide verify "+v.Name+" lists what is lost: write it again, or go back to a snapshot or generation")
			bad++
		} else if v.Reason != "" && v.State == string(volume.Active) {
			c.add("volume "+v.Name, errs.New(errs.Unavailable, "%s", v.Reason), "", "check the store and the network to it; glide events shows since when")
		}
	}
	if bad == 0 {
		c.add("volumes", nil, fmt.Sprintf("none of %d volumes and snapshots is failed or fenced", len(h.disks.All())), "")
	}
}

func ignoreUnsupported(err error) error {
	if err == vfs.ErrUnsupported {
		return nil
	}
	return err
}
