package gc

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// DefaultGrace is the grace period of a run that is given none.
const DefaultGrace = 24 * time.Hour

// The kinds of what is flagged.
const (
	kindPack     = "pack"
	kindCommits  = "commits" // an epoch of a volume's log
	kindBootList = "boot-list"
	kindForward  = "forward"
	kindCompact  = "compaction" // a pack whose live slots are copied into another
	kindErased   = "erased"     // an object of a log of a tenant whose keys were erased
)

// Planned is what an open round has flagged. The key of an epoch is that of its first
// object, Bytes is the size of all of it.
type Planned struct {
	Key       string
	Bytes     int64
	FlaggedAt time.Time // by the store's clock
	LastRoot  string    // of a boot list: the root that it is for; else ""
	Kind      string
}

// The stages of a round.
const (
	StageNone    = "none" // there was no round yet
	StageFlagged = "flagged"
	StageJudged  = "judged"
	stageClosed  = "closed"
)

// Status describes a round.
type Status struct {
	Round     uint64
	Stage     string
	FlaggedAt time.Time // by the store's clock; zero unless the stage is flagged or judged
	UndoUntil time.Time // when the grace period of its collector will be over; zero unless the stage is flagged
}

// rounds returns the newest round of each domain that has one.
func rounds(ctx context.Context, store objstore.Store) ([]round, error) {
	var domains []uint32
	err := objstore.ListAll(ctx, store, prefix, "", func(in objstore.Info) bool {
		hex, _, _ := strings.Cut(strings.TrimPrefix(in.Key, prefix), "/")
		d, err := strconv.ParseUint(hex, 16, 32)
		if err == nil && (len(domains) == 0 || domains[len(domains)-1] != uint32(d)) {
			domains = append(domains, uint32(d))
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	var out []round
	for _, d := range domains {
		r, err := newest(ctx, store, d)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// openFlags calls fn with each open round and its flag list.
func openFlags(ctx context.Context, store objstore.Store, fn func(*round, *flags)) error {
	all, err := rounds(ctx, store)
	if err != nil {
		return err
	}
	for i := range all {
		r := &all[i]
		if !r.open() {
			continue
		}
		f, err := readFlags(ctx, store, r)
		if errors.Is(err, errs.NotFound) {
			continue // closed meanwhile
		}
		if err != nil {
			return err
		}
		fn(r, f)
	}
	return nil
}

// planned lists what a round has flagged.
func (f *flags) planned(at time.Time) []Planned {
	var out []Planned
	for _, p := range f.Packs {
		out = append(out, Planned{Key: p.Key, Bytes: p.Bytes, FlaggedAt: at, Kind: kindPack})
	}
	for _, e := range f.Epochs {
		out = append(out, Planned{Key: e.Key(), Bytes: e.Bytes, FlaggedAt: at, Kind: kindCommits})
	}
	for _, k := range f.Keys {
		p := Planned{Key: k.Key, Bytes: k.Bytes, FlaggedAt: at, Kind: kindForward}
		if boot.IsKey(k.Key) {
			p.Kind, p.LastRoot = kindBootList, k.Key[strings.LastIndexByte(k.Key, '/')+1:]
		} else if _, _, err := commitlog.ParseKey(k.Key); err == nil {
			p.Kind = kindErased
		}
		out = append(out, p)
	}
	for _, p := range f.Compact {
		out = append(out, Planned{Key: p.Key, Bytes: p.Bytes, FlaggedAt: at, Kind: kindCompact})
	}
	return out
}

// Plan lists what the open rounds have flagged.
func Plan(ctx context.Context, store objstore.Store) ([]Planned, error) {
	var out []Planned
	err := openFlags(ctx, store, func(r *round, f *flags) { out = append(out, f.planned(r.flaggedAt)...) })
	return out, err
}

// ReadStatus describes the newest round: among those that are open the one that was
// flagged last, if none is the one with the greatest number.
func ReadStatus(ctx context.Context, store objstore.Store) (Status, error) {
	all, err := rounds(ctx, store)
	if err != nil {
		return Status{}, err
	}
	var last round
	for _, r := range all {
		switch {
		case r.open() != last.open():
			if r.open() {
				last = r
			}
		case r.open() && r.flaggedAt.After(last.flaggedAt), !r.open() && r.number > last.number:
			last = r
		}
	}
	s := Status{Round: last.number, Stage: StageNone}
	switch {
	case last.number == 0:
	case last.closed:
		s.Stage = stageClosed
	case last.judged:
		s.Stage, s.FlaggedAt = StageJudged, last.flaggedAt
	default:
		f, err := readFlags(ctx, store, &last)
		if errors.Is(err, errs.NotFound) { // closed meanwhile
			s.Stage = stageClosed
			break
		}
		if err != nil {
			return s, err
		}
		s.Stage, s.FlaggedAt, s.UndoUntil = StageFlagged, last.flaggedAt, last.flaggedAt.Add(f.grace())
	}
	return s, nil
}
