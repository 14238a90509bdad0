package api

import (
	"context"
	"net/http"
)

// ScrubRequest has a host and its store checked, or one of them.
type ScrubRequest struct {
	StoreOnly bool `json:"store_only,omitempty"`
	LocalOnly bool `json:"local_only,omitempty"`
}

// Scrub is what a scrub found.
type Scrub struct {
	Blocks    uint64   `json:"checked_blocks"` // slots of packs and of the SSD tier, map pages, log records
	Bytes     uint64   `json:"checked_bytes"`
	Damaged   int      `json:"damaged"`  // objects or slots
	Repaired  int      `json:"repaired"` // of the damaged ones
	Lost      []Lost   `json:"lost"`     // what no good copy was found of
	Locked    []string `json:"locked"`   // why tenants were passed over, of which the keys are not here
	ElapsedMs float64  `json:"elapsed_ms"`
}

// ScrubStats count what scrubs have found since the start, in the background and on demand.
type ScrubStats struct {
	Blocks   uint64 `json:"checked_blocks"`
	Bytes    uint64 `json:"checked_bytes"`
	Damaged  uint64 `json:"damaged"`
	Repaired uint64 `json:"repaired"`
	Lost     uint64 `json:"lost"` // objects and files
}

// Lost is an object or a file that has lost what volumes need.
type Lost struct {
	Key     string   `json:"key"`     // of the object, or the file in the data directory
	Volumes []string `json:"volumes"` // that need the ranges
	Ranges  []Range  `json:"ranges"`  // of each of the volumes; empty if they are not known
}

// scrubRoutes check what is stored.
var scrubRoutes = []route{
	handle(http.MethodPost, "/v1/scrub", func(ctx context.Context, b Backend, _ params, in ScrubRequest) (Scrub, error) {
		return b.Scrub(ctx, in)
	}),
}
