package api

import (
	"context"
	"net/http"
	"time"
)

// CollectRequest asks for a round of garbage collection.
type CollectRequest struct {
	Grace  string `json:"grace,omitempty"` // between flag and deletion, such as 90m; "": 24h
	DryRun bool   `json:"dry_run,omitempty"`
	Forget bool   `json:"forget_names,omitempty"` // forget the names of removed volumes of which nothing is left
	Force  bool   `json:"force,omitempty"`        // although a host that was away may think that it has such a volume
}

// Collection is what gc prints: what the store holds, and what was done about it.
type Collection struct {
	Round          uint64    `json:"round"` // 0: none was needed
	LiveObjects    int       `json:"live_objects"`
	LiveBytes      int64     `json:"live_bytes"`
	FlaggedObjects int       `json:"flagged_objects"`
	FlaggedBytes   int64     `json:"flagged_bytes"`
	DeletedObjects int       `json:"deleted_objects"`
	DeletedBytes   int64     `json:"deleted_bytes"`
	CompactedPacks int       `json:"compacted_packs"` // packs with much dead content that gave way to new ones; among the deleted
	CompactedBytes int64     `json:"compacted_bytes"` // of the new ones
	ForeignObjects int       `json:"foreign_objects"` // not Glide's; never touched
	ForgottenNames int       `json:"forgotten_names"` // in a dry run, those that would be forgotten
	Skipped        []Skipped `json:"skipped"`
	Requests       Requests  `json:"store_requests"`
	ElapsedMs      float64   `json:"elapsed_ms"`
}

// Skipped is a domain whose garbage stays as long as its keys are not here.
type Skipped struct {
	Domain string `json:"domain"` // 8 hexadecimal digits
	Why    string `json:"why"`
}

// Planned is something that an open round has flagged.
type Planned struct {
	Key       string    `json:"key"`
	Bytes     int64     `json:"bytes"`
	FlaggedAt time.Time `json:"flagged_at"` // by the store's clock
	LastRoot  string    `json:"last_root"`  // "" if not known
	Kind      string    `json:"kind"`       // pack, commits, boot-list, forward, compaction, erased
}

// CollectStatus describes the newest round.
type CollectStatus struct {
	Round     uint64    `json:"round"`      // 0: there was none
	Stage     string    `json:"stage"`      // none, flagged, judged, closed
	FlaggedAt time.Time `json:"flagged_at"` // zero unless it is flagged or judged
	UndoUntil time.Time `json:"undo_until"` // when its grace period is over; zero unless it is flagged
	Skipped   []Skipped `json:"skipped"`    // by the last round of this daemon
}

// UndeleteRequest names objects by their keys.
type UndeleteRequest struct {
	Keys []string `json:"keys"`
}

// gcRoutes collect garbage in the store.
var gcRoutes = []route{
	handle(http.MethodPost, "/v1/gc", func(ctx context.Context, b Backend, _ params, in CollectRequest) (Collection, error) {
		return b.Collect(ctx, in)
	}),
	handle(http.MethodGet, "/v1/gc/plan", func(ctx context.Context, b Backend, _ params, _ None) ([]Planned, error) {
		list, err := b.CollectPlan(ctx)
		return notNull(list), err
	}),
	handle(http.MethodGet, "/v1/gc/status", func(ctx context.Context, b Backend, _ params, _ None) (CollectStatus, error) {
		return b.CollectStatus(ctx)
	}),
	handle(http.MethodPost, "/v1/gc/undelete", func(ctx context.Context, b Backend, _ params, in UndeleteRequest) (None, error) {
		return None{}, b.Undelete(ctx, in.Keys)
	}),
}
