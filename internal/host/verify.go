package host

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/volume"
)

// maxDamaged bounds the damage that one call lists.
const maxDamaged = 100

// Verify reads all of a volume and checks it: what the log holds against its
// checksums, and every block against its hash; cold reads blocks from the store
// even if a tier has them.
func (h *Host) Verify(ctx context.Context, name string, cold bool) (api.Verify, error) {
	n, err := ParseName(name, true)
	if err != nil {
		return api.Verify{}, err
	}
	out := api.Verify{Name: n.String(), Cold: cold, Damaged: []string{}}
	c, done, err := h.cutOf(ctx, n)
	if err != nil {
		return out, err
	}
	defer done()
	damaged := func(what string, err error) error {
		if k := errs.KindOf(err); k != errs.Corrupt && k != errs.NotFound {
			return err // it could not be looked at
		}
		if len(out.Damaged) < maxDamaged {
			out.Damaged = append(out.Damaged, what+": "+err.Error())
		}
		return nil
	}
	pos := newPosition(ctx, c)
	if err := h.verifyLog(ctx, c, &out, pos, damaged); err != nil {
		return out, err
	}
	if g := generation(c.State.Published); cold && n.Snapshot == "" && !g.IsZero() {
		// What any other host would find the volume by.
		if _, err := commitlog.Load(ctx, h.cfg.Store, n.log(), g); err != nil {
			if err := damaged("commit", err); err != nil {
				return out, err
			}
		}
	}
	t := h.tenant(n.Tenant)
	size := int(c.State.BlockSize)
	base := c.Base()
	if cold {
		if base, err = h.storedMap(t, base); err != nil {
			return out, err
		}
	}
	err = base.Walk(ctx, 0, base.Blocks(), func(idx uint64, r pack.Ref) error {
		var err error
		if cold {
			_, err = t.domain.FetchStored(ctx, &r, size)
		} else {
			_, err = t.domain.Block(ctx, &r, size)
		}
		pos.at((idx + 1) * uint64(size))
		out.Blocks++
		out.Bytes += uint64(size)
		if err != nil {
			return damaged(fmt.Sprintf("block %d", idx), err)
		}
		return nil
	})
	if err != nil {
		err = damaged("block map", err)
	}
	return out, err
}

// coldPages bounds the pages in memory of a map that is read from the store.
const coldPages = 4 << 20

// storedMap is a map as the store has it, whatever this host keeps of its pages.
func (h *Host) storedMap(t *tenant, m *blockmap.Map) (*blockmap.Map, error) {
	loader := h.cache.Pages(noPagesKept{})
	return blockmap.New(blockmap.NewPageCache(coldPages).Source(loader.For(t.hasher), t.hasher), m.Root(), m.Blocks())
}

// noPagesKept is a host that keeps no pages of block maps.
type noPagesKept struct{}

func (noPagesKept) Page(pack.Hash) ([]byte, error) { return nil, nil }

func (noPagesKept) AddPage(pack.Hash, []byte) error { return nil }

// verifyLog reads what the overlay points at.
func (h *Host) verifyLog(ctx context.Context, c *volume.Cut, out *api.Verify, pos *position, damaged func(string, error) error) error {
	for _, s := range c.Segments() {
		if err := s.Verify(); err != nil {
			if err := damaged("log", err); err != nil {
				return err
			}
		}
	}
	buf := make([]byte, 1<<20)
	return c.Overlay(func(start, end uint64, zero bool) error {
		for off := start; off < end && !zero; off += uint64(len(buf)) {
			n := min(uint64(len(buf)), end-off)
			out.Bytes += n
			pos.read(n)
			if err := c.ReadAt(ctx, buf[:n], off); err != nil {
				if err := damaged("offset "+strconv.FormatUint(off, 10), err); err != nil {
					return err
				}
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Stats counts what the host did since the daemon started; of one volume it has
// the latencies.
func (h *Host) Stats(_ context.Context, name string) (api.Stats, error) {
	var s api.Stats
	lat := &h.lat
	if name != "" {
		d, err := h.local(name, false)
		if err != nil {
			return s, err
		}
		d.mu.Lock()
		lat = d.latencies()
		d.mu.Unlock()
	}
	s.Latency = lat.summaries()
	if h.cfg.Counter != nil {
		n := h.cfg.Counter.Counts()
		s.Requests = requests(h.cfg.Counter)
		s.BytesUp, s.BytesDown = n.BytesUp, n.BytesDown
	}
	c := &h.cache.Stats
	s.Cache.Hits, s.Cache.Misses = c.Hits.Load(), c.Misses.Load()
	s.Cache.FetchedBytes, s.Cache.ServedBytes = c.Fetched.Load(), c.Served.Load()
	s.Cache.DedupHits = h.dedup.n.Load()
	s.Panics = h.panics.Load()
	s.Limits = map[string]api.Limit{}
	for _, u := range h.cfg.Limits() {
		s.Limits[u.Name] = api.Limit{Used: u.Used, Limit: u.Limit}
	}
	w := &h.pool.Stats
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
	err := objstore.Probe(ctx, h.cfg.Store, fmt.Sprintf("%s-%016x", h.id, h.cfg.random64()))
	add("store", err, h.cfg.StoreURL+" answers, and has what a store must have", "check --store, its credentials and its network; local volumes go on without it")
	u, uerr := h.cfg.FS.GetDiskUsage(h.cfg.Data)
	if uerr == nil && u.AvailBytes < min(u.TotalBytes/20, 2<<30) {
		uerr = errs.New(errs.NoSpace, "only %d of %d bytes are free under %s", u.AvailBytes, u.TotalBytes, h.cfg.Data)
	}
	add("disk", ignoreUnsupported(uerr), fmt.Sprintf("%d of %d bytes are free under %s", u.AvailBytes, u.TotalBytes, h.cfg.Data), "remove volumes, flush some to the store, or lower --cache and --wal-limit")
	used, files := h.pool.Used()
	var werr error
	if l := h.pool.Limit(); l > 0 && float64(used) > 0.95*float64(l) {
		werr = errs.New(errs.NoSpace, "the log holds %d of at most %d bytes", used, l)
	}
	add("log", werr, fmt.Sprintf("%d bytes in use, %d on disk", used, files), "flush volumes to the store, or raise --wal-limit")
	var merr error
	if merr = h.db.Err(); merr == nil {
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
	var terr error
	if e := h.twin.Load(); e != nil {
		terr = *e
	}
	add("identity", terr, "host "+h.id, "a data directory, or a copy of one, is for one daemon: stop one of the two, and give it an empty data directory; glide hosts tells where the other one is")
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
	if e := h.cleaner.err.Load(); e != nil {
		add("flushing", *e, "", "a volume is over its dirty budget and the store does not take it")
	}
	if n := h.cache.Stats.Repaired.Load() + h.cache.Stats.Damaged.Load(); n > 0 {
		add("blocks", errs.New(errs.Corrupt, "%d blocks came damaged from the cache and %d from the store", h.cache.Stats.Repaired.Load(), h.cache.Stats.Damaged.Load()), "", "check the disk; glide verify --cold shows what the store has")
	}
	if n := h.pool.Stats.Damaged.Load(); n > 0 {
		add("log records", errs.New(errs.Corrupt, "reads of the log found bytes that do not match their checksum, %d times", n), "", "check the disk; glide events tells which volumes have lost something")
	}
	add("kernel devices", nil, kernelnbd.Describe(h.attachments.kernel.Check()), "")
	bad := 0
	for _, d := range h.all() {
		if v := h.view(d); v.State == string(volume.Failed) || v.State == string(volume.Fenced) {
			add("volume "+v.Name, errs.New(errs.Internal, "it is %s: %s", v.State, v.Reason), "", "glide show "+v.Name)
			bad++
		} else if damage := d.damage(); damage != nil {
			add("volume "+v.Name, errs.New(errs.Corrupt, "%s", damagedLog(damage)), "", "check the disk; glide verify "+v.Name+" lists what is lost: write it again, or go back to a snapshot or generation")
			bad++
		} else if v.Reason != "" && v.State == string(volume.Active) {
			add("volume "+v.Name, errs.New(errs.Unavailable, "%s", v.Reason), "", "check the store and the way to it; glide events has when it began")
		}
	}
	if bad == 0 {
		add("volumes", nil, fmt.Sprintf("none of %d volumes and snapshots is failed or fenced", len(h.all())), "")
	}
	return out, nil
}

func ignoreUnsupported(err error) error {
	if err == vfs.ErrUnsupported {
		return nil
	}
	return err
}
