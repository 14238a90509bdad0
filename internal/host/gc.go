package host

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/publication"
)

// Collect goes on with a round of garbage collection in the store, or begins one.
func (h *Host) Collect(ctx context.Context, r api.CollectRequest) (api.Collection, error) {
	grace := gc.DefaultGrace
	if r.Grace != "" {
		var err error
		if grace, err = time.ParseDuration(r.Grace); err != nil {
			return api.Collection{}, errs.New(errs.Invalid, "the grace period %.60q is no duration, such as 24h", r.Grace)
		}
	}
	// The packs of an open upload session are kept, whatever they hold. A commit that may
	// still take effect needs them.
	settled := !slices.ContainsFunc(h.disks.All(), func(d *disk.Disk) bool { o := d.Owned.Load(); return o != nil && o.Unsettled() })
	if settled && !r.DryRun {
		if err := h.publisher.Session.Rotate(ctx); err != nil {
			return api.Collection{}, err
		}
	}
	c, forgotten, err := collect(ctx, gc.Options{Store: h.disks.Store, By: h.disks.HostID, Grace: grace, Retention: h.cfg.Retention, DryRun: r.DryRun, Log: h.disks.Log}, h.cfg, r)
	if !r.DryRun {
		h.catalog.Seen.Forget(forgotten)
	}
	return c, err
}

// CollectStore is Collect without a daemon. It also returns the status afterwards.
func CollectStore(ctx context.Context, store objstore.Store, grace time.Duration, r api.CollectRequest) (api.Collection, api.CollectStatus, error) {
	cfg := Config{Data: "-", Store: store}
	if err := cfg.fill(); err != nil {
		return api.Collection{}, api.CollectStatus{}, err
	}
	c, _, err := collect(ctx, gc.Options{Store: store, By: "glide-gc", Grace: grace, Retention: cfg.Retention, DryRun: r.DryRun, Log: slog.New(slog.DiscardHandler)}, cfg, r)
	if err != nil {
		return c, api.CollectStatus{}, err
	}
	s, err := gc.ReadStatus(ctx, store)
	return c, api.CollectStatus(s), err
}

func collect(ctx context.Context, o gc.Options, cfg Config, q api.CollectRequest) (api.Collection, []commitlog.Volume, error) {
	if o.Grace < 0 {
		return api.Collection{}, nil, errs.New(errs.Invalid, "the grace period %s is negative", o.Grace)
	}
	began := cfg.Uptime()
	ctx, counter := publication.Count(ctx)
	run := gc.Run
	if q.Forget {
		run = func(ctx context.Context, o gc.Options) (gc.Result, error) { return gc.RunAndForget(ctx, o, q.Force) }
	}
	r, err := run(ctx, o)
	if r.ForeignObjects > 0 {
		o.Log.Info("objects in the store are not Glide's, and stay", "objects", r.ForeignObjects, "such_as", r.ForeignExample)
	}
	return api.Collection{
		Round: r.Round, LiveObjects: r.LiveObjects, LiveBytes: r.LiveBytes, FlaggedObjects: r.FlaggedObjects, FlaggedBytes: r.FlaggedBytes,
		DeletedObjects: r.DeletedObjects, DeletedBytes: r.DeletedBytes, CompactedPacks: r.CompactedPacks, CompactedBytes: r.CopiedBytes, ForeignObjects: r.ForeignObjects, ForgottenNames: len(r.Forgotten),
		Requests: publication.Requests(counter), ElapsedMs: float64(cfg.Uptime()-began) / float64(time.Millisecond),
	}, r.Forgotten, err
}

// CollectPlan lists what the open rounds have flagged.
func (h *Host) CollectPlan(ctx context.Context) ([]api.Planned, error) {
	list, err := gc.Plan(ctx, h.disks.Store)
	out := make([]api.Planned, len(list))
	for i, p := range list {
		out[i] = api.Planned(p)
	}
	return out, err
}

// CollectStatus describes the newest round.
func (h *Host) CollectStatus(ctx context.Context) (api.CollectStatus, error) {
	s, err := gc.ReadStatus(ctx, h.disks.Store)
	return api.CollectStatus(s), err
}

// Undelete takes flagged objects back.
func (h *Host) Undelete(ctx context.Context, keys []string) error {
	return gc.Undelete(ctx, h.disks.Store, h.disks.Rand, h.disks.Now(), keys)
}
