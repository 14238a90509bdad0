package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc/internal/reach"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/sealed"
)

const (
	prefix        = "gc/rounds/"
	formatFlags   = "glide-gc-flags"
	formatVerdict = "glide-gc-verdict"
	formatClosed  = "glide-gc-closed"
	version       = 2 // sealed; objects of version 1 are not

	// maxFlags is how many packs and keys one round flags. What is beyond is garbage in
	// the next round, too.
	maxFlags = 200_000
)

// flaggedObject is an object that seems to be garbage.
type flaggedObject struct {
	Key   string `json:"key"`
	Bytes int64  `json:"bytes"`
}

// header begins each object of a round.
type header struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Domain  uint32 `json:"domain"`
	Round   uint64 `json:"round"`
	By      string `json:"by"` // the collector, for people only
}

// flags is a round's flag list. Packs are garbage, Compact packs to compact. Keys are other
// objects: forwards of the domain, and in domain 0 boot lists. Epochs, whose commits are
// collected, are flagged in domain 0 only.
type flags struct {
	header
	// GraceMs is the grace period of the collector that flagged; nil: DefaultGrace.
	GraceMs *int64 `json:"grace_ms,omitempty"`

	Packs   []flaggedObject   `json:"packs,omitempty"`
	Epochs  []reach.PastEpoch `json:"epochs,omitempty"`
	Keys    []flaggedObject   `json:"keys,omitempty"`
	Compact []flaggedObject   `json:"compact,omitempty"`
}

// grace is the time between flag and verdict that the round began with. Whoever judges it
// may have another.
func (f *flags) grace() time.Duration {
	if f.GraceMs == nil {
		return DefaultGrace
	}
	return time.Duration(*f.GraceMs) * time.Millisecond
}

// verdict names what of the flag list is kept, by index. All the rest is condemned; of the
// packs to compact only those that Compacted has.
type verdict struct {
	header
	SparedPacks  []int       `json:"spared_packs,omitempty"`
	SparedEpochs []int       `json:"spared_epochs,omitempty"`
	SparedKeys   []int       `json:"spared_keys,omitempty"`
	Compacted    []compacted `json:"compacted,omitempty"`
}

// round is the newest round of a domain, as a list shows it. Only the greatest number
// counts: older rounds are closed, whatever late requests put back of them.
type round struct {
	domain                  uint32
	number                  uint64 // 0: there was none
	flagged, judged, closed bool
	flaggedAt               time.Time // by the store's clock
	old                     []string  // keys of older rounds
}

// open tells whether the round has begun and is not closed.
func (r *round) open() bool { return (r.flagged || r.judged) && !r.closed }

func domainPrefix(domain uint32) string { return fmt.Sprintf("%s%08x/", prefix, domain) }

// key is the key of an object of a round. Numbers are complemented, so that the newest
// round lists first.
func key(domain uint32, number uint64, part string) string {
	return fmt.Sprintf("%s%016x/%s", domainPrefix(domain), ^number, part)
}

// parts are the objects of a round.
const (
	partClosed  = "closed"
	partFlags   = "flags"
	partVerdict = "verdict"
)

// parseRoundKey takes the key of an object of a round apart.
func parseRoundKey(k string) (domain uint32, part string, ok bool) {
	hex, rest, _ := strings.Cut(strings.TrimPrefix(k, prefix), "/")
	d, err := strconv.ParseUint(hex, 16, 32)
	_, part, _ = strings.Cut(rest, "/")
	return uint32(d), part, err == nil && part != "" && strings.HasPrefix(k, prefix)
}

// newest finds the newest round of a domain, with one LIST unless there are remains of
// many.
func newest(ctx context.Context, store objstore.Store, domain uint32) (r round, err error) {
	r.domain = domain
	p := domainPrefix(domain)
	bad := ""
	err = objstore.ListAll(ctx, store, p, "", func(in objstore.Info) bool {
		hex, part, _ := strings.Cut(strings.TrimPrefix(in.Key, p), "/")
		n, perr := strconv.ParseUint(hex, 16, 64)
		if perr != nil || key(domain, ^n, part) != in.Key {
			bad = in.Key
			return false
		}
		switch {
		case r.number == 0:
			r.number = ^n
		case r.number != ^n:
			r.old = append(r.old, in.Key)
			return true
		}
		switch part {
		case partClosed:
			r.closed = true
		case partFlags:
			r.flagged, r.flaggedAt = true, in.Modified
		case partVerdict:
			r.judged = true
		default:
			bad = in.Key
		}
		return bad == ""
	})
	if err == nil && bad != "" {
		// An unknown part may flag anything.
		err = errs.New(errs.Unsupported, "a newer version of glide is collecting garbage in the store (%s): use that version here too", bad)
	}
	return r, err
}

// read reads an object of a round.
func read[T any](ctx context.Context, store objstore.Store, k, format string, h func(*T) *header) (*T, error) {
	raw, err := store.Get(ctx, k)
	if err != nil {
		return nil, err
	}
	body, is, err := sealed.Open(raw)
	var v T
	if err == nil {
		err = json.Unmarshal(body, &v)
	}
	if err != nil {
		return nil, errs.New(errs.Corrupt, "%s is no object of a collector's round: %w", k, err)
	}
	switch got := h(&v); {
	case got.Format != format:
		return nil, errs.New(errs.Corrupt, "%s is no object of a collector's round: its format is %.40q, not %q", k, got.Format, format)
	case got.Version > version:
		return nil, errs.New(errs.Unsupported, "%s is of a newer version of glide: use that version here too", k)
	case is != (got.Version >= 2):
		return nil, errs.New(errs.Corrupt, "%s has version %d and a seal: %v", k, got.Version, is)
	}
	return &v, nil
}

func readFlags(ctx context.Context, store objstore.Store, r *round) (*flags, error) {
	f, err := read(ctx, store, key(r.domain, r.number, partFlags), formatFlags, func(f *flags) *header { return &f.header })
	if err == nil && (f.Domain != r.domain || f.Round != r.number) {
		err = errs.New(errs.Corrupt, "%s is the flag list of round %d of domain %08x", key(r.domain, r.number, partFlags), f.Round, f.Domain)
	}
	return f, err
}

func readVerdict(ctx context.Context, store objstore.Store, r *round, f *flags) (*verdict, error) {
	k := key(r.domain, r.number, partVerdict)
	v, err := read(ctx, store, k, formatVerdict, func(v *verdict) *header { return &v.header })
	if err != nil {
		return nil, err
	}
	if v.Domain != r.domain || v.Round != r.number {
		return nil, errs.New(errs.Corrupt, "%s is the verdict of round %d of domain %08x", k, v.Round, v.Domain)
	}
	for _, l := range []struct {
		spared []int
		n      int
	}{{v.SparedPacks, len(f.Packs)}, {v.SparedEpochs, len(f.Epochs)}, {v.SparedKeys, len(f.Keys)}} {
		for _, i := range l.spared {
			if i < 0 || i >= l.n {
				return nil, errs.New(errs.Corrupt, "%s spares number %d of %d", k, i, l.n)
			}
		}
	}
	for _, x := range v.Compacted {
		if x.Pack < 0 || x.Pack >= len(f.Compact) || len(x.To) == 0 {
			return nil, errs.New(errs.Corrupt, "%s has compacted number %d of %d into %d packs", k, x.Pack, len(f.Compact), len(x.To))
		}
	}
	return v, nil
}

// create creates an object of a round. It reports whether this call did.
func create(ctx context.Context, store objstore.Store, k string, v any) (bool, error) {
	raw, err := sealed.Marshal(v)
	if err != nil {
		return false, err
	}
	err = store.PutIfAbsent(ctx, k, raw)
	if errs.KindOf(err) == errs.Exists && err != nil {
		return false, nil
	}
	return err == nil, err
}

// Condemned is what the open rounds have flagged. Hosts must not refer to it.
type Condemned struct {
	packs  map[string]bool
	epochs map[reach.EpochID]bool
}

// Pack tells whether a pack is flagged.
func (c *Condemned) Pack(id pack.ID) bool { return c.packs[id.Key()] }

// Commit tells whether a commit is in a flagged epoch.
func (c *Condemned) Commit(v commitlog.Volume, epoch uint64) bool {
	return c.epochs[reach.EpochID{Tenant: v.Tenant, Volume: v.Name, Epoch: epoch}]
}

// LookAll is Look for all domains.
func LookAll(ctx context.Context, store objstore.Store) (*Condemned, error) {
	all, err := rounds(ctx, store)
	if err != nil {
		return nil, err
	}
	domains := make([]uint32, len(all))
	for i := range all {
		domains[i] = all[i].domain
	}
	return Look(ctx, store, domains...)
}

// Look returns what the open rounds of the domains have flagged: commits are flagged in their
// tenant's, and may have been in domain 0. A host calls it after it
// has announced what it is about to refer to, and before it checks that the objects are
// there: in the other order a round can pass between. One LIST for each domain without an
// open round.
func Look(ctx context.Context, store objstore.Store, domains ...uint32) (*Condemned, error) {
	c := &Condemned{packs: map[string]bool{}, epochs: map[reach.EpochID]bool{}}
	for _, d := range distinct(domains) {
		r, err := newest(ctx, store, d)
		if err != nil {
			return nil, err
		}
		if !r.open() {
			continue
		}
		f, err := readFlags(ctx, store, &r)
		if errors.Is(err, errs.NotFound) {
			continue // closed meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, p := range slices.Concat(f.Packs, f.Compact) {
			c.packs[p.Key] = true
		}
		for _, e := range f.Epochs {
			c.epochs[e.EpochID] = true
		}
	}
	return c, nil
}
