package host

import (
	"context"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/publication"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/volume"
)

// Stats counts what the host did since the daemon started; of one volume it has
// the latencies.
func (h *Host) Stats(_ context.Context, name string) (api.Stats, error) {
	var s api.Stats
	lat := &h.exports.Latency
	if name != "" {
		d, err := h.disks.Local(name, false)
		if err != nil {
			return s, err
		}
		lat = d.Latencies()
	}
	s.Latency = lat.Summaries()
	if h.cfg.Counter != nil {
		n := h.cfg.Counter.Counts()
		s.Requests = publication.Requests(h.cfg.Counter)
		s.BytesUp, s.BytesDown = n.BytesUp, n.BytesDown
	}
	c := &h.disks.Cache.Stats
	s.Cache.Hits, s.Cache.Misses = c.Hits.Load(), c.Misses.Load()
	s.Cache.FetchedBytes, s.Cache.ServedBytes = c.Fetched.Load(), c.Served.Load()
	s.Cache.DedupHits = h.publisher.Dedup.Load()
	s.Panics = h.panics.Load()
	s.Limits = map[string]api.Limit{}
	for _, u := range h.cfg.Limits() {
		s.Limits[u.Name] = api.Limit{Used: u.Used, Limit: u.Limit}
	}
	w := &h.disks.WAL.Stats
	s.WAL.Syncs, s.WAL.Bytes, s.WAL.CleanedBytes = w.Syncs.Load(), w.Bytes.Load(), w.Cleaned.Load()
	return s, nil
}

// Doctor checks what the host stands on.
func (h *Host) Doctor(ctx context.Context) ([]api.Check, error) {
	var out []api.Check
	add := func(name string, err error, detail, fix string) {
		c := api.Check{Name: name, OK: err == nil, Detail: detail}
		if err != nil {
			c.Detail, c.Fix = err.Error(), fix
		}
		out = append(out, c)
	}
	err := objstore.Probe(ctx, h.disks.Store, fmt.Sprintf("%s-%016x", h.disks.HostID, h.disks.Random64()))
	add("store", err, h.cfg.StoreURL+" answers, and has what a store must have", "check --store, its credentials and its network; local volumes go on without it")
	u, uerr := h.cfg.FS.GetDiskUsage(h.cfg.Data)
	if uerr == nil && u.AvailBytes < min(u.TotalBytes/20, 2<<30) {
		uerr = errs.New(errs.NoSpace, "only %d of %d bytes are free under %s", u.AvailBytes, u.TotalBytes, h.cfg.Data)
	}
	add("disk", ignoreUnsupported(uerr), fmt.Sprintf("%d of %d bytes are free under %s", u.AvailBytes, u.TotalBytes, h.cfg.Data), "remove volumes, flush some to the store, or lower --cache and --wal-limit")
	used, files := h.disks.WAL.Used()
	var werr error
	if l := h.disks.WAL.Limit(); l > 0 && float64(used) > 0.95*float64(l) {
		werr = errs.New(errs.NoSpace, "the log holds %d of at most %d bytes", used, l)
	}
	add("log", werr, fmt.Sprintf("%d bytes in use, %d on disk", used, files), "flush volumes to the store, or raise --wal-limit")
	var merr error
	if merr = h.disks.DB.Err(); merr == nil {
		merr = h.missing()
	}
	add("data directory", merr, h.cfg.Data+" has what the daemon needs, and can be written to", "glide events tells since when")
	left, of := h.room.Left()
	var rerr error
	if left < of && ignoreUnsupported(uerr) == nil {
		if rerr = h.room.Fill(); rerr != nil {
			rerr = errs.New(errs.NoSpace, "of %s that are kept for when the disk is full %s are left", size.Human(uint64(of)), size.Human(uint64(left)))
		}
	}
	add("reserved room", rerr, size.Human(uint64(of))+" are kept for when the disk is full", "make room under "+h.cfg.Data)
	add("identity", h.owners.TwinNoticed(), "host "+h.disks.HostID, "a data directory, or a copy of one, is for one daemon: stop one of the two, and give it an empty data directory; glide hosts tells where the other one is")
	for _, u := range h.cfg.Limits() {
		var lerr error
		if u.Near() {
			lerr = errs.New(errs.NoSpace, "%d of at most %d are in use", u.Used, u.Limit)
		}
		detail := fmt.Sprintf("%d in use", u.Used)
		if u.Limit > 0 {
			detail += fmt.Sprintf(", of at most %d", u.Limit)
		}
		add(strings.ReplaceAll(u.Name, "_", " "), lerr, detail, u.Fix)
	}
	if n := h.panics.Load(); n > 0 {
		add("bugs", errs.New(errs.Internal, "%d requests were ended by a bug", n), "", "send the stacks in the daemon's log to who maintains it")
	}
	if err := h.cleaner.FlushError(); err != nil {
		add("flushing", err, "", "a volume is over its dirty budget and the store does not take it")
	}
	if n := h.disks.Cache.Stats.Repaired.Load() + h.disks.Cache.Stats.Damaged.Load(); n > 0 {
		add("blocks", errs.New(errs.Corrupt, "%d blocks came damaged from the cache and %d from the store", h.disks.Cache.Stats.Repaired.Load(), h.disks.Cache.Stats.Damaged.Load()), "", "check the disk; glide verify --cold shows what the store has")
	}
	if n := h.disks.WAL.Stats.Damaged.Load(); n > 0 {
		add("log records", errs.New(errs.Corrupt, "reads of the log found bytes that do not match their checksum, %d times", n), "", "check the disk; glide events tells which volumes have lost something")
	}
	add("kernel devices", nil, kernelnbd.Describe(h.attachments.Kernel.Check()), "")
	bad := 0
	for _, d := range h.disks.All() {
		if v := h.view(d); v.State == string(volume.Failed) || v.State == string(volume.Fenced) {
			add("volume "+v.Name, errs.New(errs.Internal, "it is %s: %s", v.State, v.Reason), "", "glide show "+v.Name)
			bad++
		} else if damage := d.Damage(); damage != nil {
			add("volume "+v.Name, errs.New(errs.Corrupt, "%s", damagedLog(damage)), "", "check the disk; glide verify "+v.Name+" lists what is lost: write it again, or go back to a snapshot or generation")
			bad++
		} else if v.Reason != "" && v.State == string(volume.Active) {
			add("volume "+v.Name, errs.New(errs.Unavailable, "%s", v.Reason), "", "check the store and the way to it; glide events has when it began")
		}
	}
	if bad == 0 {
		add("volumes", nil, fmt.Sprintf("none of %d volumes and snapshots is failed or fenced", len(h.disks.All())), "")
	}
	return out, nil
}

func ignoreUnsupported(err error) error {
	if err == vfs.ErrUnsupported {
		return nil
	}
	return err
}
