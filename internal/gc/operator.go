package gc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
)

// DefaultGrace is the grace period of a run that is given none.
const DefaultGrace = 24 * time.Hour

// undeleteHost is the host of the pins that Undelete creates.
const undeleteHost = "undelete"

// The kinds of what is flagged.
const (
	kindPack     = "pack"
	kindCommits  = "commits" // an epoch of a volume's log
	kindBootList = "boot-list"
	kindForward  = "forward"
	kindCompact  = "compaction" // a pack whose live slots are copied into another
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
	UndoUntil time.Time // when DefaultGrace will be over; zero unless the stage is flagged
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
		out = append(out, Planned{Key: e.key(), Bytes: e.Bytes, FlaggedAt: at, Kind: kindCommits})
	}
	for _, k := range f.Keys {
		p := Planned{Key: k.Key, Bytes: k.Bytes, FlaggedAt: at, Kind: kindForward}
		if boot.IsKey(k.Key) {
			p.Kind, p.LastRoot = kindBootList, k.Key[strings.LastIndexByte(k.Key, '/')+1:]
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
		s.Stage, s.FlaggedAt, s.UndoUntil = StageFlagged, last.flaggedAt, last.flaggedAt.Add(DefaultGrace)
	}
	return s, nil
}

// Undelete takes flagged packs and epochs back, each with a pin of undeleteHost that stays
// until somebody drops it. An epoch may be named by any commit in it. Whoever judges the
// round reads the pins first. So if there is a verdict after the pin was created, it may
// be one that does not know of the pin, and Undelete drops the pin and fails.
func Undelete(ctx context.Context, store objstore.Store, random io.Reader, now time.Time, keys []string) error {
	flagged := map[string]Planned{}
	of := map[string]*round{} // by the planned key
	err := openFlags(ctx, store, func(r *round, f *flags) {
		for _, p := range f.planned(r.flaggedAt) {
			flagged[p.Key] = p
			of[p.Key] = r
		}
	})
	if err != nil {
		return err
	}
	pins := make([]pinobject.Pin, len(keys))
	for i, k := range keys { // all are checked before the first is taken back
		p, ok := flagged[epochKey(k)]
		if !ok {
			return errs.New(errs.NotFound, "%.300q is not flagged: glide gc plan lists what is", k)
		}
		if of[p.Key].judged {
			return tooLate(k, of[p.Key])
		}
		if pins[i], err = pinFor(p, random, now); err != nil {
			return err
		}
	}
	for i, k := range keys {
		r := of[epochKey(k)]
		err := pinobject.Create(ctx, store, pins[i])
		if err == nil {
			var again round
			if again, err = newest(ctx, store, r.domain); err == nil && (again.number != r.number || again.judged || again.closed) {
				err = tooLate(k, r)
			}
		}
		if err == nil {
			continue
		}
		if derr := pinobject.Drop(context.WithoutCancel(ctx), store, pins[i]); derr != nil {
			err = fmt.Errorf("%w; its pin %s stays (%w)", err, pins[i].Key(), derr)
		}
		if i > 0 {
			err = fmt.Errorf("%w (what was named before it was taken back)", err)
		}
		return err
	}
	return nil
}

func tooLate(key string, r *round) error {
	return errs.New(errs.NotFound, "%s cannot be taken back: round %d has been judged, it is too late", key, r.number)
}

// epochKey is the key by which a flag list has a commit: that of its epoch's first object.
// Other keys are what they are.
func epochKey(key string) string {
	vol, g, err := commitlog.ParseKey(key)
	if err != nil {
		return key
	}
	return epochID{vol.Tenant, vol.Name, g.Epoch}.key()
}

// pinFor makes the pin that keeps what is flagged. That of an epoch names its first
// object, which stays readable even if the epoch is collected after all: a pin of an object
// that is gone would stop every collector.
func pinFor(p Planned, random io.Reader, now time.Time) (pinobject.Pin, error) {
	switch p.Kind {
	case kindPack, kindCompact:
		id, err := pack.ParseKey(p.Key)
		if err != nil {
			return pinobject.Pin{}, err
		}
		pin, err := pinobject.New(random, undeleteHost, pinobject.Packs, now)
		pin.Packs = []pinobject.PackName{pinobject.PackName(id)}
		return pin, err
	case kindCommits:
		pin, err := pinobject.New(random, undeleteHost, pinobject.Fork, now)
		pin.Commit = p.Key
		return pin, err
	}
	if p.Kind == kindForward {
		return pinobject.Pin{}, errs.New(errs.Invalid, "%s is a forward of a pack that nothing refers to: there is nothing to take back", p.Key)
	}
	return pinobject.Pin{}, errs.New(errs.Invalid, "%s is a boot list, which cannot be taken back: it is only a hint, and the next boots write it again", p.Key)
}
