// Package rekey brings what a sealed tenant has in the store under its current root, and
// retires roots that nothing is sealed with any more.
//
// Packs give way to new ones with the same content (gc.Reseal). Stubs and tombstones, which
// stay for ever, are sealed again in their places. Other objects of logs are not touched:
// owners begin a new epoch when they see a new root, and the old epochs go past retention.
//
// There is no state but the store: what is left is found by looking, so a run that was
// interrupted at any point is followed by another.
package rekey

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants"
)

// Options say whose data is brought under its current root. Tenants, Store and Name are
// required.
type Options struct {
	Tenants  *tenants.Tenants
	Store    objstore.Store
	Name     string               // of the domain: a tenant, or TENANT+DOMAIN
	By       string               // names this host in objects, for people only
	Rate     int64                // bytes a second that are read and written; 0: as fast as it goes
	Uptime   func() time.Duration // a monotonic clock, for Rate
	Progress func(Report)         // after each step; may be nil
	// Roll begins a new epoch of a volume whose owner is this process; errs.NotFound: it is
	// another's, who does so with its next commit. nil: none is.
	Roll func(ctx context.Context, vol commitlog.Volume) error
	Now  func() time.Time // for Retire
	Rand io.Reader        // of the names of new packs; nil: the system's
	Log  *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Roll == nil {
		o.Roll = func(context.Context, commitlog.Volume) error {
			return errs.New(errs.NotFound, "no volume is of this process")
		}
	}
	if o.Uptime == nil {
		began := time.Now()
		o.Uptime = func() time.Duration { return time.Since(began) }
	}
	if o.Rate > 0 {
		o.Store = newPaced(o.Store, o.Rate, o.Uptime)
	}
	return o
}

// Report says how far it is.
type Report struct {
	Root        uint32   // the current one
	Packs       int      // that gave way to new ones
	Bytes       int64    // of the new ones
	Stubs       int      // of logs, sealed again
	PacksLeft   int      // under an older root: pinned, of an upload in progress, or garbage
	CommitsLeft int      // under an older root, which go past retention
	Volumes     []string // whose newest commit is among those: they are to be written and flushed once
}

// Done tells whether nothing is left under an older root.
func (r *Report) Done() bool { return r.PacksLeft == 0 && r.CommitsLeft == 0 }

// Run does what can be done now. What is left goes with time: pins are dropped, garbage is
// collected, epochs are past retention. Then it is run again.
func Run(ctx context.Context, o Options) (Report, error) {
	o = o.withDefaults()
	d, err := o.keys(ctx)
	if err != nil {
		return Report{}, err
	}
	r := Report{Root: d.Domain.Current()}
	tell := func() {
		if o.Progress != nil {
			o.Progress(r)
		}
	}
	if err := o.logs(ctx, &r, d); err != nil { // first: what owners write from here on is under the new root
		return r, err
	}
	tell()
	known := &gc.Roots{}
	for {
		done, err := gc.Reseal(ctx, gc.Options{Store: o.Store, Tenants: o.Tenants, By: o.By, Rand: o.Rand, Log: o.Log, Compact: roundBytes}, o.Name, known)
		r.Packs += done.Packs
		r.Bytes += done.Bytes
		r.PacksLeft = done.Left
		tell()
		if err != nil || done.Packs == 0 {
			return r, err
		}
	}
}

// roundBytes is how many bytes of packs are sealed again in one round: progress is kept, and
// collectors get their turn, in between.
const roundBytes = 1 << 30

// keys returns the tenant's newest keys.
func (o *Options) keys(ctx context.Context) (commitlog.Keys, error) {
	k, err := o.Tenants.Keys(ctx, o.Name)
	if err == nil && k.Domain == nil {
		err = errs.New(errs.Invalid, "tenant %q is plain and has no keys", o.Name)
	}
	if err == nil {
		err = o.Tenants.Renew(ctx, o.Name)
	}
	if err != nil {
		return commitlog.Keys{}, err
	}
	return o.Tenants.Keys(ctx, o.Name)
}

// eachCommit calls fn for each object of the tenant's logs, with its bytes and the oldest root
// with which something of it is sealed: 0 if it is plain, or of another domain.
func (o *Options) eachCommit(ctx context.Context, fn func(vol commitlog.Volume, g commitlog.Generation, root uint32, raw []byte) error) error {
	tenant, isolated, err := commitlog.ParseDomainName(o.Name)
	if err != nil {
		return err
	}
	var list []string
	err = objstore.ListAll(ctx, o.Store, "t/"+tenant+"/", "", func(in objstore.Info) bool {
		list = append(list, in.Key)
		return true
	})
	for _, key := range list {
		vol, g, perr := commitlog.ParseKey(key)
		if err != nil || perr != nil {
			continue
		}
		raw, gerr := o.Store.Get(ctx, key)
		if errors.Is(gerr, errs.NotFound) {
			continue // collected meanwhile
		}
		root := uint32(0)
		if err = gerr; err == nil {
			root, err = commitlog.OldestRoot(raw, isolated)
		}
		if err == nil {
			err = fn(vol, g, root, raw)
		}
	}
	return err
}

// logs seals stubs and tombstones again, makes owners begin new epochs, and counts the rest.
func (o *Options) logs(ctx context.Context, r *Report, k commitlog.Keys) error {
	newest := map[commitlog.Volume]bool{}
	return o.eachCommit(ctx, func(vol commitlog.Volume, g commitlog.Generation, root uint32, raw []byte) error {
		first := !newest[vol] // of its newest epoch: that lists first
		newest[vol] = true
		if root == 0 || root >= k.Domain.Current() {
			return nil
		}
		key := vol.Key(g)
		obj, err := commitlog.Read(ctx, o.Tenants.Keyed(o.Store), key, raw)
		if err != nil {
			return err
		}
		if obj.Kind == commitlog.Stub || obj.Tombstone {
			// The same object, with the same mark: who meets it reads the same.
			sealed, err := obj.EncodeFor(k.Domain)
			if err == nil {
				err = o.Store.Put(ctx, key, sealed)
			}
			if err == nil {
				r.Stubs++
			}
			return err
		}
		r.CommitsLeft++
		if !first {
			return nil
		}
		switch err := o.Roll(ctx, obj.State.Volume()); {
		case errors.Is(err, errs.NotFound):
			r.Volumes = append(r.Volumes, obj.State.Name)
		case err != nil:
			return err
		}
		return nil
	})
}

// settled is how long a root must have been replaced before it may be retired: until then a
// host may not have seen the new one. Hosts look once a minute.
const settled = 10 * time.Minute

// Retire drops the key of a root, for ever. It is refused (errs.WouldLose) as long as
// anything in the store is sealed with it, or with an older one, and for some minutes after
// the root was replaced.
func Retire(ctx context.Context, o Options, root uint32) (tenants.Info, error) {
	o = o.withDefaults()
	k, err := o.keys(ctx)
	if err != nil {
		return tenants.Info{}, err
	}
	info, err := o.Tenants.Show(ctx, o.Name)
	if err != nil {
		return info, err
	}
	i := slices.IndexFunc(info.Roots, func(r keys.Root) bool { return r.Number == root })
	switch {
	case i < 0:
		return info, errs.New(errs.NotFound, "tenant %q has no root %d", o.Name, root)
	case i+1 == len(info.Roots):
		return info, errs.New(errs.Invalid, "root %d of tenant %q is in use: glide tenant rotate %s begins another", root, o.Name, o.Name)
	case o.Now().Sub(info.Roots[i+1].Created) < settled:
		return info, errs.New(errs.Busy, "root %d of tenant %q was replaced less than %v ago, and hosts may use it still: wait", root, o.Name, settled)
	}
	if err := o.unused(ctx, k, root); err != nil {
		return info, err
	}
	return o.Tenants.Retire(ctx, o.Name, root)
}

// unused makes sure that nothing is sealed with a root or an older one.
func (o *Options) unused(ctx context.Context, k commitlog.Keys, root uint32) error {
	used := func(key string) error {
		return errs.New(errs.WouldLose, "root %d of tenant %q cannot be retired: %s is under it or an older one; glide tenant rekey %s brings what is in use under the current root, the rest goes past retention",
			root, o.Name, key, o.Name)
	}
	codec := pack.Codec{Domain: k.Domain}
	var packs []objstore.Info
	err := objstore.ListAll(ctx, o.Store, pack.DomainPrefix+tenants.DomainText(k.Domain.ID())+"/", "", func(in objstore.Info) bool {
		packs = append(packs, in)
		return true
	})
	if err != nil {
		return err
	}
	for _, in := range packs {
		id, err := pack.ParseKey(in.Key)
		if err != nil {
			continue
		}
		oldest, err := codec.OldestRoot(ctx, o.Store, id, in.Size)
		if errors.Is(err, errs.NotFound) {
			continue // collected meanwhile
		}
		if err == nil && oldest <= root {
			err = used(in.Key)
		}
		if err != nil {
			return err
		}
	}
	return o.eachCommit(ctx, func(vol commitlog.Volume, g commitlog.Generation, oldest uint32, _ []byte) error {
		if oldest != 0 && oldest <= root {
			return used(vol.Key(g))
		}
		return nil
	})
}
