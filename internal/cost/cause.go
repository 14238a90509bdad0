// Package cost says what the requests to the object store are made for: it counts them by
// cause and by volume, and computes what they cost.
//
// # Whose request it is
//
// A verb or a background job names its cause in the context with which it begins (Begin),
// and functions that several of them call name theirs as well (With). The first one that
// is named counts: what a fork flushes is part of the fork. The same holds for the volume,
// separately: a verb can name its cause before it knows the volume, and a function below
// adds the volume. What names no cause is counted as Other, so the causes add up to all
// requests.
//
// Requests that several wait for are counted for the one that made them. If a volume is
// read while its blocks are being fetched ahead, that is a prefetch.
//
// # Concurrency
//
// Counting takes one lookup in a concurrent map for each request to the store. What is
// read from a cache is not counted, and costs nothing.
package cost

import "context"

// Cause is what a request is made for.
type Cause uint8

// The causes. Their names are part of the API.
const (
	Other    Cause = iota // the rest
	Boot                  // boot lists, and the blocks in them
	Read                  // what guests read, or asked to have fetched
	Prefetch              // blocks fetched because they lie next to what a guest reads
	Hydrate               // glide hydrate
	Flush                 // glide flush, and flushes of volumes over their budgets
	Fold                  // data commits that become packs
	Ship                  // data commits of continuous and sync volumes
	Snapshot              // glide snapshot and rollback
	Fork                  // glide fork
	Import                // glide import
	Export                // glide export
	Wake                  // glide wake and sleep, claims, and handing over
	Manage                // glide create, set, rename, resize and rm
	Verify                // glide verify
	List                  // what only looks: ls, show, log, diff, df, hosts, doctor
	GC                    // glide gc, and rounds of the daemon
	Scrub                 // glide scrub, and scrubs of the daemon
	Upkeep                // seal checks, pins, what an unfinished call left
	causes
)

var names = [causes]string{
	Other: "other", Boot: "boot", Read: "read", Prefetch: "prefetch", Hydrate: "hydrate", Flush: "flush", Fold: "fold", Ship: "ship",
	Snapshot: "snapshot", Fork: "fork", Import: "import", Export: "export", Wake: "wake", Manage: "manage", Verify: "verify", List: "list",
	GC: "gc", Scrub: "scrub", Upkeep: "upkeep",
}

// String returns the name of the cause.
func (c Cause) String() string { return names[c] }

// Volume identifies a volume; the zero Volume is none. The requests for a snapshot are
// those of its volume.
type Volume = [16]byte

// purpose is what a context's requests are made for.
type purpose struct {
	cause  Cause
	volume Volume
}

type purposeKey struct{}

func purposeOf(ctx context.Context) purpose {
	p, _ := ctx.Value(purposeKey{}).(purpose)
	return p
}

// Begin derives the context of a verb or a job: its requests have the cause, and are made
// for the volume, whatever ctx says.
func Begin(ctx context.Context, c Cause, v Volume) context.Context {
	return context.WithValue(ctx, purposeKey{}, purpose{c, v})
}

// With derives a context whose requests have the cause and are made for the volume, where
// ctx does not say otherwise.
func With(ctx context.Context, c Cause, v Volume) context.Context {
	old := purposeOf(ctx)
	p := old
	if p.cause == Other {
		p.cause = c
	}
	if p.volume == (Volume{}) {
		p.volume = v
	}
	if p == old {
		return ctx
	}
	return context.WithValue(ctx, purposeKey{}, p)
}

// Carry derives a context from ctx whose requests are made for what those of from are: for
// work that outlives the call that began it.
func Carry(ctx, from context.Context) context.Context {
	return context.WithValue(ctx, purposeKey{}, purposeOf(from))
}
