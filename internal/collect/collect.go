// Package collect runs garbage collection in the store for a daemon: rounds that somebody
// asks for, and rounds by itself (rounds.go). Package gc has the rounds.
package collect

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forget"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/publication"
	"github.com/paraglide/glide/internal/tenants"
)

// DefaultRetention is how long replaced commits are kept where nobody says otherwise.
const DefaultRetention = 72 * time.Hour

// Options are the settings of a Collector.
type Options struct {
	Interval  time.Duration // between rounds that the daemon runs by itself; 0: it runs none
	Grace     time.Duration // between flag and deletion, unless a caller says otherwise
	Retention time.Duration // how long replaced commits are kept
	Uptime    func() time.Duration
	// Settle ends what an earlier process of the host has left under way, so that its pins
	// can go.
	Settle func(ctx context.Context) error
	// Served counts requests of guests. While there are some, a round takes its time.
	Served func() uint64
}

// Collector collects garbage for one daemon. Its methods may be called concurrently.
type Collector struct {
	opts    Options
	disks   *disk.Table
	session Session
	store   objstore.Store // without Watch
	paced   *paced         // the same, for rounds
	memory  *gc.Memory     // under running
	seen    Seen
	changes *changes

	running sync.Mutex // held by the round in progress

	mu      sync.Mutex // guards skipped
	skipped []api.Skipped
}

// Session is the upload session of the host.
type Session interface {
	// Rotate ends it, so that packs of it that no commit names are garbage.
	Rotate(ctx context.Context) error
}

// Seen is what the host has seen of the store.
type Seen interface {
	// Forget makes the logs as if they had never been seen.
	Forget(logs []commitlog.Volume)
}

// New creates a collector. Its disks must use what Watch returns as their store.
func New(o Options, disks *disk.Table, session Session, w *Watched, seen Seen) *Collector {
	return &Collector{
		opts: o, disks: disks, session: session, seen: seen,
		store: w.Store, changes: &w.changes, paced: newPaced(w.Store, o.Served, o.Uptime), memory: gc.NewMemory(),
	}
}

// Collect goes on with a round of garbage collection in the store, or begins one.
func (c *Collector) Collect(ctx context.Context, r api.CollectRequest) (api.Collection, error) {
	ctx = cost.With(ctx, cost.GC, cost.Volume{})
	grace := c.opts.Grace
	if r.Grace != "" {
		var err error
		if grace, err = time.ParseDuration(r.Grace); err != nil {
			return api.Collection{}, errs.New(errs.Invalid, "the grace period %.60q is no duration, such as 24h", r.Grace)
		}
	}
	c.running.Lock()
	defer c.running.Unlock()
	if !r.DryRun {
		if err := c.opts.Settle(ctx); err != nil { // its pins keep some garbage longer
			c.disks.Log.Warn("pins that nobody needs stay", "error", err)
		}
	}
	// The packs of an open upload session are kept, whatever they hold. A commit that may
	// still take effect needs them.
	if !r.DryRun && !c.disks.Unsettled() {
		if err := c.session.Rotate(ctx); err != nil {
			return api.Collection{}, err
		}
	}
	out, forgotten, err := collect(ctx, gc.Options{Store: c.paced, Tenants: c.disks.Tenants, By: c.disks.HostID, Grace: grace, Retention: c.opts.Retention, Memory: c.memory, DryRun: r.DryRun, Rand: c.disks.Rand, Log: c.disks.Log}, c.opts.Uptime, r)
	if !r.DryRun {
		c.seen.Forget(forgotten)
	}
	c.mu.Lock()
	c.skipped = out.Skipped
	c.mu.Unlock()
	return out, err
}

// CollectStore is Collect without a daemon, with providers that open keyrings, which keeps
// replaced commits for as long as retention. It also returns the status afterwards.
func CollectStore(ctx context.Context, store objstore.Store, key []string, grace, retention time.Duration, r api.CollectRequest) (api.Collection, api.CollectStatus, error) {
	with, err := keys.ParseAll(key)
	if err != nil {
		return api.Collection{}, api.CollectStatus{}, err
	}
	log := slog.New(slog.DiscardHandler)
	known := tenants.New(tenants.Options{Store: store, Providers: with, Now: time.Now, Uptime: clock.BootTime, Log: log})
	o := gc.Options{Store: store, Tenants: known, By: "glide-gc", Grace: grace, Retention: retention, DryRun: r.DryRun, Log: log}
	c, _, err := collect(ctx, o, clock.BootTime, r)
	if err != nil {
		return c, api.CollectStatus{}, err
	}
	s, err := gc.ReadStatus(ctx, store)
	return c, status(&s, c.Skipped), err
}

// status is a status for callers.
func status(s *gc.Status, skipped []api.Skipped) api.CollectStatus {
	if skipped == nil {
		skipped = []api.Skipped{}
	}
	return api.CollectStatus{Round: s.Round, Stage: s.Stage, FlaggedAt: s.FlaggedAt, UndoUntil: s.UndoUntil, Skipped: skipped}
}

func collect(ctx context.Context, o gc.Options, uptime func() time.Duration, q api.CollectRequest) (api.Collection, []commitlog.Volume, error) {
	if o.Grace < 0 {
		return api.Collection{}, nil, errs.New(errs.Invalid, "the grace period %s is negative", o.Grace)
	}
	began := uptime()
	ctx, counter := publication.Count(ctx)
	var r gc.Result
	var forgotten []commitlog.Volume
	var err error
	if q.Forget {
		r, forgotten, err = forget.Names(ctx, o, q.Force)
	} else {
		r, err = gc.Run(ctx, o)
	}
	if r.ForeignObjects > 0 {
		o.Log.Info("objects in the store are not Glide's, and stay", "objects", r.ForeignObjects, "such_as", r.ForeignExample)
	}
	skipped := []api.Skipped{}
	for _, s := range r.Skipped {
		skipped = append(skipped, api.Skipped{Domain: fmt.Sprintf("%08x", s.Domain), Why: s.Why})
	}
	return api.Collection{
		Skipped: skipped, Round: r.Round, LiveObjects: r.LiveObjects, LiveBytes: r.LiveBytes, FlaggedObjects: r.FlaggedObjects, FlaggedBytes: r.FlaggedBytes,
		DeletedObjects: r.DeletedObjects, DeletedBytes: r.DeletedBytes, CompactedPacks: r.CompactedPacks, CompactedBytes: r.CopiedBytes, ForeignObjects: r.ForeignObjects, ForgottenNames: len(forgotten),
		Requests: publication.Requests(counter), ElapsedMs: float64(uptime()-began) / float64(time.Millisecond),
	}, forgotten, err
}

// Plan lists what the open rounds have flagged.
func (c *Collector) Plan(ctx context.Context) ([]api.Planned, error) {
	ctx = cost.With(ctx, cost.GC, cost.Volume{})
	list, err := gc.Plan(ctx, c.store)
	out := make([]api.Planned, len(list))
	for i, p := range list {
		out[i] = api.Planned(p)
	}
	return out, err
}

// Status describes the newest round.
func (c *Collector) Status(ctx context.Context) (api.CollectStatus, error) {
	ctx = cost.With(ctx, cost.GC, cost.Volume{})
	s, err := gc.ReadStatus(ctx, c.store)
	c.mu.Lock()
	defer c.mu.Unlock()
	return status(&s, c.skipped), err
}

// Undelete takes flagged objects back.
func (c *Collector) Undelete(ctx context.Context, keys []string) error {
	ctx = cost.With(ctx, cost.GC, cost.Volume{})
	return gc.Undelete(ctx, c.store, c.disks.Rand, c.disks.Now(), keys)
}
