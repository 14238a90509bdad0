package gc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc/internal/reach"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
)

// undeleteHost is the host of the pins that Undelete creates.
const undeleteHost = "undelete"

// Undelete takes flagged packs and epochs back, each with a pin of undeleteHost that stays
// until somebody drops it. An epoch may be named by any commit in it.
//
// A collector may have begun its second mark before the pins were there, and judge without
// them. So Undelete judges the round itself, after the pins exist: its verdict spares
// everything, and the next round, whose mark sees the pins, flags the rest again. If the
// round has a verdict already, that counts: what it spares is taken back, too. For what it
// condemns it is too late. Then all pins of the call are dropped.
func Undelete(ctx context.Context, store objstore.Store, random io.Reader, now time.Time, keys []string) error {
	found, err := findFlagged(ctx, store)
	if err != nil {
		return err
	}
	pins := make([]pinobject.Pin, len(keys))
	for i, k := range keys { // all are checked before the first is taken back
		f, ok := found[k]
		if !ok {
			f, ok = found[epochKey(k)]
		}
		if !ok {
			return errs.New(errs.NotFound, "%.300q is not flagged: glide gc plan lists what is", k)
		}
		if pins[i], err = pinFor(f.planned, random, now); err != nil {
			return err
		}
	}
	for i := range pins {
		if err = pinobject.Create(ctx, store, pins[i]); err != nil {
			return dropAll(ctx, store, pins[:i+1], err)
		}
	}
	spared := map[*round]*verdict{}
	for _, k := range keys {
		f, ok := found[k]
		if !ok {
			f = found[epochKey(k)]
		}
		if spared[f.round] == nil {
			if spared[f.round], err = spare(ctx, store, f.round, f.flags); err != nil {
				return dropAll(ctx, store, pins, err)
			}
		}
		kept := spared[f.round].spares(f.planned.Kind, f.index)
		if !kept && spared[f.round] == overVerdict {
			kept, err = stillThere(ctx, store, f.planned)
		}
		if err == nil && !kept {
			err = errs.New(errs.NotFound, "%s cannot be taken back: round %d has been judged, it is too late", k, f.round.number)
		}
		if err != nil {
			return dropAll(ctx, store, pins, err)
		}
	}
	return nil
}

// dropAll drops the pins of a call that failed with err.
func dropAll(ctx context.Context, store objstore.Store, pins []pinobject.Pin, err error) error {
	for _, p := range pins {
		if derr := pinobject.Drop(context.WithoutCancel(ctx), store, p); derr != nil {
			err = fmt.Errorf("%w; its pin %s stays (%w)", err, p.Key(), derr)
		}
	}
	return err
}

// flaggedAs is something that an open round has flagged.
type flaggedAs struct {
	round   *round
	flags   *flags
	planned Planned
	index   int // in the list of its kind
}

// findFlagged returns what the open rounds have flagged, by key.
func findFlagged(ctx context.Context, store objstore.Store) (map[string]flaggedAs, error) {
	found := map[string]flaggedAs{}
	err := openFlags(ctx, store, func(r *round, f *flags) {
		n := map[string]int{} // of each list so far
		for _, p := range f.planned(r.flaggedAt) {
			list := p.Kind
			if list == kindForward || list == kindErased {
				list = kindBootList
			}
			found[p.Key] = flaggedAs{r, f, p, n[list]}
			n[list]++
		}
	})
	return found, err
}

// spare returns the verdict of an open round. If it has none, spare makes one that spares
// everything: whoever called it has pinned what is to stay. overVerdict means that the
// round was closed meanwhile.
func spare(ctx context.Context, store objstore.Store, r *round, f *flags) (*verdict, error) {
	v := sparing(r, f)
	mine, err := create(ctx, store, key(r.domain, r.number, partVerdict), v)
	if err != nil {
		return nil, err
	}
	var verr error
	if !mine {
		v, verr = readVerdict(ctx, store, r, f)
	}
	// Only then: a verdict that comes after the end of the round need not be of this flag list.
	again, err := newest(ctx, store, r.domain)
	switch {
	case err != nil:
		return nil, err
	case again.number != r.number:
		return nil, errs.New(errs.Busy, "round %d was closed meanwhile: try again", r.number)
	case again.closed || errors.Is(verr, errs.NotFound):
		return overVerdict, nil
	}
	return v, verr
}

// overVerdict stands for the verdict of a round that is closed. It spares nothing.
var overVerdict = &verdict{}

// upTo is all numbers below n.
func upTo(n int) (list []int) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

// sparing is a verdict that condemns nothing.
func sparing(r *round, f *flags) *verdict {
	return &verdict{
		header:      header{formatVerdict, version, r.domain, r.number, undeleteHost},
		SparedPacks: upTo(len(f.Packs)), SparedEpochs: upTo(len(f.Epochs)), SparedKeys: upTo(len(f.Keys)),
	}
}

// spares tells whether a verdict spares number i of a kind.
func (v *verdict) spares(kind string, i int) bool {
	list := v.SparedPacks
	switch kind {
	case kindCommits:
		list = v.SparedEpochs
	case kindBootList, kindForward, kindErased:
		list = v.SparedKeys
	case kindCompact:
		return v != overVerdict && !slices.ContainsFunc(v.Compacted, func(c compacted) bool { return c.Pack == i })
	}
	_, ok := slices.BinarySearch(list, i)
	return ok
}

// stillThere tells whether a pack, or the content of an epoch, outlived the round that had
// flagged it. A round is closed when everything that it condemned is gone.
func stillThere(ctx context.Context, store objstore.Store, p Planned) (bool, error) {
	raw, err := []byte(nil), error(nil)
	if p.Kind == kindCommits {
		raw, err = store.Get(ctx, p.Key)
	} else {
		_, err = store.Head(ctx, p.Key)
	}
	if errors.Is(err, errs.NotFound) {
		return false, nil
	}
	if err != nil || p.Kind != kindCommits {
		return err == nil, err
	}
	o, err := commitlog.DecodeHeader(raw)
	return err == nil && o.Kind != commitlog.Stub, err
}

// SpareCommits keeps the open rounds of these domains from collecting commits, given by
// their keys, all of which a pin of the caller keeps: it names them, or a commit whose state
// does. Commits are collected in rounds of their tenant's domain, or, before the tenant was
// sealed, of domain 0. It reports false if a round condemns one of them. What the caller
// needs must still be there when it is read after this call: a round may have been closed
// before.
func SpareCommits(ctx context.Context, store objstore.Store, keys []string, domains ...uint32) (bool, error) {
	needed := map[string]bool{}
	for _, k := range keys {
		needed[epochKey(k)] = true
	}
	for _, d := range distinct(domains) {
		if ok, err := spareCommits(ctx, store, d, needed); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// distinct are domains, once each.
func distinct(domains []uint32) []uint32 {
	d := slices.Clone(domains)
	slices.Sort(d)
	return slices.Compact(d)
}

func spareCommits(ctx context.Context, store objstore.Store, domain uint32, needed map[string]bool) (bool, error) {
	r, err := newest(ctx, store, domain)
	if err != nil || !r.open() {
		return err == nil, err
	}
	f, err := readFlags(ctx, store, &r)
	if errors.Is(err, errs.NotFound) {
		return true, nil // closed meanwhile
	}
	if err != nil {
		return false, err
	}
	var v *verdict
	for i, e := range f.Epochs {
		if !needed[e.Key()] {
			continue
		}
		if v == nil {
			if v, err = spare(ctx, store, &r, f); v == overVerdict || errors.Is(err, errs.Busy) {
				return true, nil // closed meanwhile; a later round sees the pin
			} else if err != nil {
				return false, err
			}
		}
		if !v.spares(kindCommits, i) {
			return false, nil
		}
	}
	return true, nil
}

// epochKey is the key by which a flag list has a commit: that of its epoch's first object.
// Other keys are what they are.
func epochKey(key string) string {
	vol, g, err := commitlog.ParseKey(key)
	if err != nil {
		return key
	}
	return reach.EpochID{Tenant: vol.Tenant, Volume: vol.Name, Epoch: g.Epoch}.Key()
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
	switch p.Kind {
	case kindErased:
		return pinobject.Pin{}, errs.New(errs.Invalid, "%s is of a tenant whose keys were erased: nobody can read it any more", p.Key)
	case kindForward:
		return pinobject.Pin{}, errs.New(errs.Invalid, "%s is a forward of a pack that nothing refers to: there is nothing to take back", p.Key)
	}
	return pinobject.Pin{}, errs.New(errs.Invalid, "%s is a boot list, which cannot be taken back: it is only a hint, and the next boots write it again", p.Key)
}

// Ends returns when the commits that open rounds have flagged may be collected, by the key of
// their epoch's first object: when the grace period of the round is over; if they are
// condemned already, when they were flagged.
func Ends(ctx context.Context, store objstore.Store) (map[string]time.Time, error) {
	ends := map[string]time.Time{}
	all, err := rounds(ctx, store)
	if err != nil {
		return nil, err
	}
	for i := range all {
		r := &all[i]
		if !r.open() {
			continue
		}
		f, err := readFlags(ctx, store, r)
		var v *verdict
		if err == nil && r.judged {
			v, err = readVerdict(ctx, store, r, f)
		}
		if errors.Is(err, errs.NotFound) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, err
		}
		for i, e := range f.Epochs {
			switch {
			case v == nil:
				ends[e.Key()] = r.flaggedAt.Add(f.grace())
			case !v.spares(kindCommits, i):
				ends[e.Key()] = r.flaggedAt
			}
		}
	}
	return ends, nil
}
