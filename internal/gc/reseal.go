package gc

import (
	"context"
	"fmt"
	"sync"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc/internal/reach"
	"github.com/paraglide/glide/internal/pack"
)

// Roots is what is known of packs: the oldest root that something of each is sealed with. A
// pack never changes under its name.
type Roots struct {
	mu  sync.Mutex
	all map[pack.ID]uint32
}

// older returns which of the packs have something that is sealed with a root before the
// codec's current one. It reads the ends of those that it does not know.
func (k *Roots) older(ctx context.Context, c *collector, codec pack.Codec, packs []flaggedObject) (list []flaggedObject, err error) {
	err = reach.SideBySide(ctx, packs, func(ctx context.Context, p flaggedObject) error {
		id, err := pack.ParseKey(p.Key)
		if err != nil {
			return err
		}
		k.mu.Lock()
		root, known := k.all[id]
		k.mu.Unlock()
		if !known {
			root, err = codec.OldestRoot(ctx, c.Store, id, p.Bytes)
		}
		switch {
		case err != nil && errs.KindOf(err) == errs.NotFound:
			return nil // collected meanwhile
		case err != nil:
			return err
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.all == nil {
			k.all = map[pack.ID]uint32{}
		}
		if k.all[id] = root; root < codec.Domain.Current() {
			list = append(list, p)
		}
		return nil
	})
	return list, err
}

// Resealed is what a call of Reseal did, and what it left.
type Resealed struct {
	Packs int   // that gave way to new ones
	Bytes int64 // of the new ones
	Left  int   // pinned, of an upload in progress, garbage, or for the next call
}

// Reseal brings packs of a sealed tenant that have something under an older root under the
// current one: a round of the tenant's domain that compacts these packs, whatever is dead in
// them, and flags nothing else. An open round of a collector is judged first, sparing all
// that it has flagged: the next round flags it again.
//
// What is left to do is found by looking, so a call that was interrupted is made again.
func Reseal(ctx context.Context, o Options, tenant string, known *Roots) (Resealed, error) {
	o.Grace = 0
	c := &collector{Options: o.withDefaults()}
	inv, err := c.inventory(ctx)
	if err != nil {
		return Resealed{}, err
	}
	rs, err := c.realms(ctx, inv)
	if err != nil {
		return Resealed{}, err
	}
	k, err := c.Tenants.Keys(ctx, tenant)
	if err != nil {
		return Resealed{}, err
	}
	if k.Domain == nil {
		return Resealed{}, errs.New(errs.Invalid, "tenant %q is plain and has no keys", tenant)
	}
	if c.realm = rs.realm(k.Domain.ID()); c.realm.why != nil {
		return Resealed{}, c.realm.why
	}
	c.marks = &reach.Marks{Scope: c.scope(c.realm, rs), Memory: c.Memory}
	last, err := c.closeOpen(ctx, c.realm.domain)
	if err != nil {
		return Resealed{}, err
	}
	if inv, err = c.inventory(ctx); err != nil { // it has changed
		return Resealed{}, err
	}
	return c.reseal(ctx, last, inv, known)
}

// closeOpen ends the open round of a domain, and returns the newest.
func (c *collector) closeOpen(ctx context.Context, domain uint32) (*round, error) {
	r, err := newest(ctx, c.Store, domain)
	if err != nil || !r.open() {
		return &r, err
	}
	if !r.judged {
		f, err := readFlags(ctx, c.Store, &r)
		if err != nil {
			return nil, err
		}
		if n, _ := f.total(); n > 0 { // a collector's
			if _, err := spare(ctx, c.Store, &r, f); err != nil {
				return nil, err
			}
			r.judged = true
		}
	}
	if _, err := c.finish(ctx, &r); err != nil {
		return nil, err
	}
	r, err = newest(ctx, c.Store, domain)
	if err == nil && r.open() {
		err = errs.New(errs.Busy, "another collector has begun a round of domain %08x: try again", domain)
	}
	return &r, err
}

// reseal runs the round.
func (c *collector) reseal(ctx context.Context, last *round, inv *inventory, known *Roots) (out Resealed, err error) {
	codec, err := c.codec(ctx, c.realm)
	if err != nil {
		return out, err
	}
	older, err := known.older(ctx, c, codec, inv.packs[c.realm.domain])
	if err != nil || len(older) == 0 {
		return out, err
	}
	if _, err := c.now(ctx); err != nil {
		return out, err
	}
	if _, err := c.marks.Next(ctx); err != nil {
		return out, err
	}
	grace := int64(0)
	f := flags{header: header{formatFlags, version, last.domain, last.number + 1, c.By}, GraceMs: &grace}
	budget := c.Compact
	for _, p := range older {
		out.Left++
		id, err := pack.ParseKey(p.Key)
		if err != nil {
			return out, err
		}
		if len(c.marks.Alive(id)) > 0 && (len(f.Compact) == 0 || p.Bytes <= budget) {
			budget -= p.Bytes
			f.Compact = append(f.Compact, p)
		}
	}
	if len(f.Compact) == 0 {
		return out, nil
	}
	mine, err := create(ctx, c.Store, key(f.Domain, f.Round, partFlags), f)
	if err != nil {
		return out, err
	}
	if err := c.remove(ctx, last.old); err != nil {
		return out, err
	}
	if !mine {
		return out, errs.New(errs.Busy, "another collector has begun a round of domain %08x: try again", f.Domain)
	}
	r := round{domain: f.Domain, number: f.Round, flagged: true, flaggedAt: c.at}
	if _, err := c.finish(ctx, &r); err != nil {
		return out, fmt.Errorf("sealing packs again: %w", err)
	}
	out.Packs, out.Bytes = c.res.CompactedPacks, c.res.CopiedBytes
	out.Left -= out.Packs
	return out, nil
}
