// Package host is one daemon. It opens the volumes of its data directory, takes care of
// its disk, and has each verb of the API as a method. The packages below have what is
// about one volume: disk (what it is), ownership (which host owns it), durability (what
// its policy promises) and publication (how it gets into the store). docs/architecture.md
// shows all of them.
//
// It has no lock of its own. A verb takes the Op of its disks (see package disk) in this
// order: a volume before its snapshots; volumes that one call creates, in the order of
// the call.
package host

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/cleaner"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/collect"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/custody"
	"github.com/paraglide/glide/internal/datadir"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/durability"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/export"
	"github.com/paraglide/glide/internal/forks"
	"github.com/paraglide/glide/internal/hydrate"
	"github.com/paraglide/glide/internal/inspect"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/ownership"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/peers"
	"github.com/paraglide/glide/internal/pin"
	"github.com/paraglide/glide/internal/publication"
	"github.com/paraglide/glide/internal/rehome"
	"github.com/paraglide/glide/internal/reserve"
	"github.com/paraglide/glide/internal/scrub"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/undo"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/internal/wal"
)

// Host is one daemon's engine. All exported methods may be called concurrently.
type Host struct {
	cfg  Config
	dir  *datadir.Dir
	room *reserve.Reserve

	disks       *disk.Table
	pins        *pin.Pins
	catalog     *catalog.Catalog
	owners      *ownership.Owners
	publisher   *publication.Publisher
	durability  *durability.Keeper
	cleaner     *cleaner.Cleaner
	exports     *export.Exports
	attachments *export.Attachments
	inspector   *inspect.Inspector
	forker      *forks.Forker
	undo        *undo.Undo
	collector   *collect.Collector
	hydrator    *hydrate.Hydrator
	boots       *boot.Boots
	scrubber    *scrub.Scrubber
	custody     *custody.Custody
	peers       *peers.Peers

	panics          atomic.Uint64
	lastLost        atomic.Pointer[pack.ID] // of which a block was last missed
	expiring        atomic.Bool             // Expire is at work
	renewing        atomic.Bool             // keys are looked at again
	missingReported atomic.Pointer[string]  // what of the data directory was last said to be missing

	closing sync.Once
	stop    context.CancelFunc // ends disks.Ctx
	bg      sync.WaitGroup
}

// zeroingPause is the pause after each MiB of a log segment that is zeroed in advance. It
// limits zeroing to about 250 MB/s of the disk's bandwidth.
const zeroingPause = 2 * time.Millisecond

// diskReserve is how much of a disk the tiers leave for everything else, in bytes. On a
// small disk they leave a sixteenth.
const diskReserve = 1 << 30

// pageCacheBytes bounds the block map pages in memory: enough for 50 GB in the order of
// an import. Even with the pages that the garbage collector has not freed yet, a host
// whose volume had its whole map walked stays below 60 MB.
const pageCacheBytes = 16 << 20

// Open opens the host's data directory and every volume in it that was active. It returns
// an error if another daemon uses the directory.
func Open(ctx context.Context, cfg Config) (*Host, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	h := newHost(cfg)
	if err := h.open(ctx); err != nil {
		h.attachments.Stop(ctx)
		h.closeAll()
		return nil, err
	}
	return h, nil
}

// newHost creates the parts of the host and connects them. It does not open the data
// directory.
func newHost(cfg Config) *Host {
	h := &Host{cfg: cfg}
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	store := collect.Watch(cfg.Store)
	var known *tenants.Tenants
	encrypts := objstore.SetEncryption(cfg.Store, func(key string) objstore.Encryption { return known.Encryption(key) }) == nil
	known = tenants.New(tenants.Options{Store: cfg.Store, Encrypts: encrypts, Providers: cfg.Keys, SealedOnly: cfg.SealedOnly, TTL: cfg.KeyTTL, Locked: h.keysLost, Now: cfg.Now, Uptime: cfg.Uptime, Log: cfg.Log})
	h.disks = disk.NewTable(disk.Base{
		Store: known.Keyed(store), Tenants: known, Ledger: cfg.Ledger, Pages: blockmap.NewPageCache(pageCacheBytes), Rand: cfg.Rand, Now: cfg.Now, Uptime: cfg.Uptime, Log: cfg.Log,
		Events: event.New(cfg.Now, cfg.Log), Ctx: ctx, BG: &h.bg,
	})
	cfg.Ledger.Known = func(v cost.Volume) bool { return h.disks.ByID(volume.ID(v)) != nil }
	h.pins = pin.New(h.disks)
	h.catalog = catalog.New(h.disks)
	own, exchange := ownership.Options{Advertise: cfg.Advertise, RollAt: cfg.RollAt, RollAge: cfg.Retention, Saw: h.learn}, peers.Options{On: cfg.Peers, Uptime: cfg.Uptime, Local: h.localBlock, Hasher: known.Hasher}
	if cfg.Dial != nil {
		own.Dial = func(addr, id string) (ownership.Peer, error) { return cfg.Dial(addr, id) }
		exchange.Dial = func(addr, id string) (peers.Peer, error) { return cfg.Dial(addr, id) }
	}
	h.peers = peers.New(exchange)
	h.owners = ownership.New(own, h.disks, h.pins, h.catalog)
	h.publisher = publication.New(publication.Options{PackBlocks: cfg.PackBlocks, Compression: cfg.Compression}, h.disks, h.pins, h.owners)
	h.durability = durability.New(durability.Options{FoldAfter: cfg.FoldAfter, BulkBytes: cfg.BulkBytes}, h.disks, h.pins, h.owners, h.publisher)
	h.cleaner = cleaner.New(cleaner.Options{DirtyBudget: cfg.DirtyBudget, RoomWait: cfg.RoomWait}, h.disks, h.publisher)
	h.exports = export.New(h.disks, h.owners, h.Panicked)
	h.attachments = export.NewAttachments(cfg.Kernel, h.disks, h.exports, h.mayGrow)
	h.inspector = inspect.New(h.disks, h.catalog)
	h.forker = forks.New(forks.Options{MayGrow: h.mayGrow, Learn: h.learn}, h.disks, h.pins, h.catalog, h.owners, h.publisher, h.durability)
	h.undo = undo.New(h.disks, h.pins, h.catalog, h.owners, h.publisher, h.durability, h.inspector)
	h.collector = collect.New(collect.Options{Interval: cfg.CollectEvery, Grace: cfg.CollectGrace, Retention: cfg.Retention, Uptime: cfg.Uptime, Settle: h.settleFormer, Served: h.exports.Latency.Served}, h.disks, h.publisher.Session, store, &h.catalog.Seen)
	h.custody = custody.New(h.disks, cfg.Keys, rehome.New(rehome.Options{HandOver: h.handOver, Wake: h.wakeReleased, Step: cfg.MoveBytes}, h.disks, h.pins, h.catalog, h.owners, h.publisher), h.catalog, h.unpin)
	h.hydrator = hydrate.New(h.disks, h.inspector)
	h.boots = boot.New(h.disks, cfg.NoPrefetch)
	h.scrubber = scrub.New(h.disks, h.pins, h.boots, scrub.Rates{Disk: cfg.ScrubDisk, Store: cfg.ScrubStore})
	h.disks.Hooks = disk.Hooks{
		Reclaim: h.owners.Reclaim, Ship: h.durability.StartShipping, Abandon: h.attachments.Abandon, Device: h.attachments.Device,
		Opened: h.boots.Opened, GuestsLeft: h.boots.GuestsLeft,
		Saved: h.cleaner.Wake, Pressure: h.cleaner.Pressure, Throttle: h.cleaner.Throttle,
	}
	return h
}

func (h *Host) open(ctx context.Context) error {
	fs, join := h.cfg.FS, h.cfg.FS.PathJoin
	if err := fs.MkdirAll(h.cfg.Data, 0o700); err != nil {
		return datadir.Unusable(h.cfg.Data, err)
	}
	// Best effort: the daemon's user may not be allowed to open the parent directory.
	_ = datadir.SyncDir(fs, fs.PathDir(h.cfg.Data))
	var err error
	if h.dir, err = datadir.Lock(fs, h.cfg.Data); err != nil {
		return err
	}
	total, err := h.diskBytes()
	if err != nil {
		return err
	}
	if h.room, err = reserve.Open(h.reserveOptions(total)); err != nil {
		return datadir.Unusable(h.cfg.Data, err)
	}
	for _, dir := range []string{"wal", "slabs", "meta"} {
		if err := fs.MkdirAll(join(h.cfg.Data, dir), 0o700); err != nil {
			return datadir.Unusable(h.cfg.Data, err)
		}
		if dir != "meta" { // the metadata database never overwrites a file
			datadir.OverwriteInPlace(fs, join(h.cfg.Data, dir))
		}
	}
	// A new directory gets its identity last. Identify also syncs the directory.
	if h.disks.HostID, err = datadir.Identify(fs, h.cfg.Data, h.cfg.Rand); err != nil {
		return err
	}
	var local *seal.Local
	if h.cfg.Local != nil {
		h.cfg.Starting("opening the host's own key")
		if local, err = h.cfg.Local(ctx, h.disks.HostID); err != nil {
			return err
		}
	}
	h.cfg.Starting("opening the metadata")
	if h.disks.DB, err = meta.Open(meta.Options{FS: fs, Dir: join(h.cfg.Data, "meta"), Give: h.room.Give, Changed: h.metaChanged, Local: local}); err != nil {
		return err
	}
	if err := h.disks.Tenants.Recall(h.disks.DB); err != nil {
		return err
	}
	h.cfg.Starting("opening the log and the cache")
	limit := h.cfg.WALLimit.of(total)
	h.disks.WAL, err = wal.Open(wal.Options{
		FS: fs, Dir: join(h.cfg.Data, "wal"), SegmentBytes: segmentBytes(limit), FirstBytes: firstBytes(segmentBytes(limit)), Limit: limit,
		Spares: 2, Reserve: 1, Rand: h.disks.Random64, Local: local,
		Pace: func() { _ = clock.Pause(h.disks.Ctx, zeroingPause) },
	})
	if err != nil {
		return err
	}
	h.disks.Cache, err = cache.Open(cache.Options{
		FS: fs, Dir: join(h.cfg.Data, "slabs"), Memory: h.cfg.Memory, Disk: h.cfg.Cache.of(total),
		Room: h.roomForCache, Store: h.disks.Store, Peers: h.peers, NoAhead: h.cfg.NoPrefetch, Uptime: h.cfg.Uptime, Panicked: h.Panicked,
		Gone: h.lost, Local: local,
	})
	if err != nil {
		return err
	}
	h.disks.Loader = h.disks.Cache.Pages(h.disks.DB)
	if err := h.pins.Recover(cost.Begin(ctx, cost.Upkeep, cost.Volume{})); err != nil {
		return err
	}
	if err := h.openVolumes(); err != nil {
		return err
	}
	h.disks.BG.Go(h.upkeep)
	h.disks.BG.Go(h.hydrator.Resume)
	h.disks.BG.Go(h.scrubber.Run)
	h.disks.BG.Go(h.owners.CheckSealsAtStart)
	h.disks.BG.Go(h.owners.WithdrawOrphans)
	h.disks.BG.Go(func() { h.collector.Loop(h.disks.Ctx) })
	return h.attachments.Reclaim(ctx)
}

// segmentBytes returns the size of log segments for a log of at most limit bytes: 64 MiB,
// or less if the log would have only a few segments.
func segmentBytes(limit int64) uint32 {
	size := int64(64 << 20)
	for size > 64<<10 && limit/size < 24 {
		size /= 2
	}
	return uint32(size)
}

// firstBytes returns the size of a volume's first log segment, if its other segments have
// up to this many bytes. The first one is small, because most volumes write little and a
// host has many of them.
func firstBytes(segment uint32) uint32 {
	for segment > 1<<20 {
		segment /= 2
	}
	return segment
}

// diskBytes returns the size of the disk that holds the data directory.
func (h *Host) diskBytes() (uint64, error) {
	u, err := h.cfg.FS.GetDiskUsage(h.cfg.Data)
	if errors.Is(err, vfs.ErrUnsupported) {
		return 1 << 40, nil // a file system in memory
	}
	if err != nil {
		return 0, datadir.Unusable(h.cfg.Data, err)
	}
	return u.TotalBytes, nil
}

// roomForCache reports whether the disk has room for n more bytes of cache. The log must
// not find the disk full of data that could be fetched again.
func (h *Host) roomForCache(n int64) bool {
	u, err := h.cfg.FS.GetDiskUsage(h.cfg.Data)
	if err != nil {
		return errors.Is(err, vfs.ErrUnsupported)
	}
	reserve := min(uint64(diskReserve), u.TotalBytes/16) + 4*uint64(h.disks.WAL.SegmentBytes())
	return u.AvailBytes > uint64(n)+reserve
}

// ID returns the host's identity.
func (h *Host) ID() string { return h.disks.HostID }

// LiftLimits lets all requests begin that wait for the limits of their volumes, and those
// to come. The records keep the limits.
func (h *Host) LiftLimits() {
	for _, d := range h.disks.All() {
		d.Limiter.Set(volume.Limits{}, h.disks.Now)
	}
}

// Close finishes the work in progress, syncs, and closes everything. Only the first call
// has an effect.
func (h *Host) Close(ctx context.Context) (err error) {
	h.closing.Do(func() { err = h.close(ctx) })
	return err
}

func (h *Host) close(ctx context.Context) error {
	h.attachments.Stop(ctx)
	h.durability.ShipLast(ctx)
	h.stop()
	h.disks.BG.Wait()
	var first error
	for _, d := range h.disks.All() {
		d.Op.Lock()
		if err := d.Close(); err != nil && first == nil {
			first = err
		}
		d.Op.Unlock()
	}
	if h.disks.DB != nil && !h.disks.Unsettled() {
		// The next start drops the pins that stay, so an unresponsive store does not
		// delay the stop for long.
		ctx, cancel := context.WithTimeout(cost.With(ctx, cost.Upkeep, cost.Volume{}), durability.LastShipping)
		_ = h.publisher.Session.Close(ctx)
		cancel()
	}
	h.closeAll()
	return first
}

func (h *Host) closeAll() {
	h.stop()
	h.peers.Close()
	if h.disks.Cache != nil {
		h.disks.Cache.Close()
	}
	if h.disks.WAL != nil {
		h.disks.WAL.Close()
	}
	if h.disks.DB != nil {
		_ = h.disks.DB.Close()
	}
	if h.dir != nil {
		h.dir.Close()
	}
}

// openVolumes opens the volumes, and then permits the recycling of log segments.
func (h *Host) openVolumes() error {
	if err := h.disks.OpenAll(h.cfg.Starting); err != nil {
		return err
	}
	h.disks.WAL.Settle()
	h.bg.Go(func() { h.cleaner.Run(h.disks.Ctx) })
	h.bg.Go(func() {
		for _, d := range h.disks.All() {
			if v := d.Volume(); v != nil {
				v.CheckLog(func() bool { return h.disks.Ctx.Err() != nil })
			}
		}
	})
	return nil
}
