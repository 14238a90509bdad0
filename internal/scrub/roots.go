package scrub

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/installation"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
)

// visitor gets what a walk of the store finds. Its methods are called one at a time.
type visitor interface {
	root(ctx context.Context, u use, root blockmap.Root) error
	block(u use, ref *pack.Ref, off, n uint64)
	// bad is told of an object that cannot be read. vol is the volume whose it is, or "".
	bad(key, vol string, err error)
}

// roots walks what keeps data in the store. It reads pins first, as a host publishes before
// it drops its pin, then logs, then what is only on this host.
type roots struct {
	*run
	v     visitor
	names *disk.LogNames

	mu   sync.Mutex // guards the rest, and calls of v
	read map[string]bool
}

func (r *run) walkStore(v visitor) error {
	w := &roots{run: r, v: v, names: r.disks.LogNames(), read: map[string]bool{}}
	tenants := slices.Clone(r.tenants)
	err := commitlog.Tenants(r.ctx, r.disks.Store, func(t string) error { tenants = append(tenants, t); return nil })
	isolated, ierr := r.disks.Tenants.Isolated(r.ctx, "")
	if err = errors.Join(err, ierr); err != nil {
		return err
	}
	tenants = append(tenants, isolated...)
	slices.Sort(tenants)
	r.tenants = slices.Compact(tenants)
	r.lockOut()
	pins, err := w.pins()
	if err != nil {
		return err
	}
	if err := w.logs(); err != nil {
		return err
	}
	for _, d := range r.disks.All() {
		if st := d.State(); st.BlockSize > 0 && r.locked[disk.DomainName(&st)] == nil {
			if err := v.root(r.ctx, use{disk.DomainName(&st), d.String(), uint64(st.BlockSize), st.Size}, st.Root); err != nil {
				return err
			}
		}
	}
	// A pin says neither whose roots it keeps nor how large their blocks are. Most have been
	// visited by now.
	for _, p := range pins {
		if err := w.pinned(p); err != nil {
			return err
		}
	}
	return r.ctx.Err()
}

// keys lists the keys below a prefix.
func (w *roots) keys(prefix string) (keys []string, err error) {
	err = objstore.ListAll(w.ctx, w.disks.Store, prefix, "", func(in objstore.Info) bool { keys = append(keys, in.Key); return true })
	return keys, err
}

// pins reads the pins of this host, or all.
func (w *roots) pins() (pins []pinobject.Pin, err error) {
	under := "pins/"
	if !w.all {
		under += w.disks.HostID + "/"
	}
	keys, err := w.keys(under)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		raw, err := w.disks.Store.Get(w.ctx, key)
		if errs.KindOf(err) == errs.NotFound && err != nil {
			continue // dropped meanwhile
		}
		if err != nil {
			return nil, err
		}
		p, err := pinobject.Decode(raw)
		if err == nil && p.Key() != key {
			err = errs.New(errs.Corrupt, "it is the pin %s", p.Key())
		}
		if err != nil {
			w.v.bad(key, "", err)
			continue
		}
		pins = append(pins, p)
	}
	return pins, nil
}

// pinned visits what a pin keeps.
func (w *roots) pinned(p pinobject.Pin) error {
	for _, c := range append([]string{p.Commit}, p.Commits...) {
		if vol, g, err := commitlog.ParseKey(c); err == nil {
			if _, err := w.commit(w.ctx, vol, g, ""); err != nil {
				return err
			}
		}
	}
	for _, root := range p.Roots {
		if err := w.pinnedRoot(root); err != nil {
			return err
		}
	}
	return nil
}

// pinnedRoot visits a root of which the tenant is not known: hashes are keyed by that. It is
// of nobody's if those who may read its domain are locked.
func (w *roots) pinnedRoot(root blockmap.Root) error {
	var of []string
	for _, t := range w.tenants {
		if _, err := w.hasher(t).In(root.Ref.Pack.Domain); err == nil {
			of = append(of, t)
		}
	}
	for i, t := range of {
		_, err := w.source(blockmap.NewPageCache(walkPages), w.storePages(), t).Page(w.ctx, &root.Ref, int(root.Height)-1)
		if err != nil && !isDamage(err) {
			return err
		}
		if err == nil || i == len(of)-1 && len(w.locked) == 0 {
			return w.v.root(w.ctx, use{tenant: t}, root)
		}
	}
	return nil
}

// logs visits the commits of this host's volumes, or of all.
func (w *roots) logs() error {
	under := []string{"t/"}
	if !w.all {
		under = nil
		for _, d := range w.disks.All() {
			if st := d.State(); st.Published != nil && w.locked[st.Tenant] == nil {
				first, err := w.disks.KeyOf(w.ctx, disk.Name{Tenant: st.Tenant, Volume: st.Name}, commitlog.Generation{Epoch: 1, Number: 1})
				if err != nil {
					return err
				}
				under = append(under, path.Dir(path.Dir(first))+"/")
			}
		}
	}
	for _, prefix := range under {
		keys, err := w.keys(prefix)
		if err != nil {
			return err
		}
		var run []commitlog.Generation // of one epoch, unbroken from its first object
		var of commitlog.Volume
		for _, key := range append(keys, "") {
			vol, g, err := commitlog.ParseKey(key)
			if err != nil && key != "" {
				continue
			}
			if n := len(run); n > 0 && (vol != of || g != run[n-1].Next()) {
				if vol == of && g.Epoch == run[0].Epoch {
					continue // beyond a gap: no part of the log
				}
				if err := w.epoch(of, run); err != nil {
					return err
				}
				run = run[:0]
			}
			if of = vol; len(run) > 0 || g.Number == 1 {
				run = append(run, g)
			}
		}
	}
	return nil
}

// sideBySide is how many commits are read at a time.
const sideBySide = 16

// epoch visits the commits of an epoch. What lies behind the object that closes it is no
// part of the log.
func (w *roots) epoch(vol commitlog.Volume, run []commitlog.Generation) error {
	name, _ := w.names.Of(w.ctx, vol)
	for len(run) > 0 {
		group := run[:min(len(run), sideBySide)]
		run = run[len(group):]
		objects := make([]*commitlog.Object, len(group))
		g, gctx := errgroup.WithContext(w.ctx)
		for i := range group {
			g.Go(func() (err error) {
				defer errs.Catch(&err)
				objects[i], err = w.commit(gctx, vol, group[i], name.String())
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if slices.ContainsFunc(objects, func(o *commitlog.Object) bool { return o != nil && o.Closes() }) {
			return nil
		}
	}
	return nil
}

// commit visits a commit, once. name is the volume that needs it, "" for a pin. The object
// is nil if it is damaged, was visited before, or is gone.
func (w *roots) commit(ctx context.Context, vol commitlog.Volume, g commitlog.Generation, name string) (*commitlog.Object, error) {
	o, err := w.object(ctx, vol, g, name, "commit ")
	if o == nil || o.Bare() || err != nil || w.past(o) {
		return o, err
	}
	s := &o.State
	if name != "" { // that of the log may be hidden
		name = s.Volume().String()
	}
	u := use{s.DomainName(), name, uint64(s.BlockSize), s.Size}
	for _, run := range s.DataCommits {
		of := commitlog.Volume{Tenant: s.Tenant, Name: run.Name}
		for n := run.First; n <= run.Last; n++ {
			d, err := w.object(ctx, of, commitlog.Generation{Epoch: run.Epoch, Number: n}, name, "data ")
			if err == nil && d != nil {
				err = w.data(u, d)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	if err := w.data(u, o); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.v.root(ctx, u, s.Root); err != nil {
		return nil, err
	}
	for i := range s.Snapshots {
		snap := &s.Snapshots[i]
		u.size = snap.Size
		if name != "" {
			u.name = disk.Display(s.Tenant, s.Name, snap.Name)
		}
		if err := w.v.root(ctx, u, snap.Root); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// past tells whether an object is from before its tenant was sealed, or from the time when
// it was moved: what it names in clear nobody can go back to, and may be gone.
func (w *roots) past(o *commitlog.Object) bool {
	h := w.hasher(o.State.DomainName())
	_, plain := h.In(0)
	return h.Codec().Domain != nil && plain != nil && o.NamesPlain()
}

// object reads an object of a log, once as each thing that it is asked for, and for pins
// and for volumes apart; nil if it is damaged, was read before, or is gone.
func (w *roots) object(ctx context.Context, vol commitlog.Volume, g commitlog.Generation, name, as string) (*commitlog.Object, error) {
	key := vol.Key(g)
	if w.locked[vol.Tenant] != nil {
		return nil, nil
	}
	w.mu.Lock()
	if name == "" {
		as += "of pin "
	}
	known := w.read[as+key]
	w.read[as+key] = true
	w.mu.Unlock()
	if known {
		return nil, nil
	}
	raw, err := w.disks.Store.Get(ctx, key)
	if errs.KindOf(err) == errs.NotFound && err != nil {
		return nil, nil // collected meanwhile
	}
	if err != nil {
		return nil, err
	}
	if w.locked[commitlog.DomainOf(vol.Tenant, raw)] != nil { // of an isolated volume
		return nil, nil
	}
	o, err := commitlog.Read(ctx, w.disks.Store, key, raw)
	if errors.Is(err, commitlog.ErrPlain) { // and whole
		return commitlog.DecodeHeader(raw)
	}
	if errs.KindOf(err) == errs.Unavailable && err != nil {
		return nil, err // its keys are not here any more
	}
	if err == nil && len(o.Data) > 0 {
		_, err = commitlog.DecodeData(o.Data)
	}
	if err == nil {
		return o, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.v.bad(key, name, err)
	return nil, nil
}

// data visits the blocks that a data commit names.
func (w *roots) data(u use, o *commitlog.Object) error {
	if len(o.Data) == 0 {
		return nil
	}
	ranges, err := commitlog.DecodeData(o.Data)
	if err != nil {
		return fmt.Errorf("%s: %w", o.Log().Key(o.Generation), err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range ranges {
		if x := &ranges[i]; x.Block != nil {
			u.blockSize = x.Len
			w.v.block(u, x.Block, x.Off, x.Len)
		}
	}
	return nil
}

// hints checks the small objects that are no roots: whose the store is, forwards, rounds of
// collectors, boot lists.
func (r *run) hints() error {
	keys := []string{installation.Key}
	if err := forward.Each(r.ctx, r.disks.Store, func(_, _ pack.ID, in objstore.Info) { keys = append(keys, in.Key) }); err != nil {
		return err
	}
	for _, prefix := range []string{gc.Prefix, "t/"} {
		err := objstore.ListAll(r.ctx, r.disks.Store, prefix, "", func(in objstore.Info) bool {
			if prefix == gc.Prefix || boot.IsKey(in.Key) {
				keys = append(keys, in.Key)
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	for _, key := range keys {
		err := r.hint(key)
		switch {
		case err == nil || errs.KindOf(err) == errs.NotFound: // it went meanwhile
		case errs.KindOf(err) == errs.Corrupt:
			r.damaged(1, event.Store, key, err)
			if from, _, ok := forward.ParseKey(key); ok {
				r.forwards[from] = append(r.forwards[from], key)
			} else {
				r.lose(key, "", nil, err.Error())
			}
		default:
			return err
		}
	}
	return nil
}

// hint checks one of them, and mends a boot list.
func (r *run) hint(key string) error {
	if key == installation.Key {
		_, err := installation.Name(r.ctx, r.disks.Store)
		return err
	}
	if strings.HasPrefix(key, gc.Prefix) {
		return gc.CheckObject(r.ctx, r.disks.Store, key)
	}
	if !boot.IsKey(key) {
		_, err := forward.Read(r.ctx, r.disks.Store, key)
		return err
	}
	raw, err := r.disks.Store.Get(r.ctx, key)
	if err != nil {
		return err
	}
	damaged, err := r.boots.Mend(r.ctx, key, raw)
	if damaged && err == nil {
		r.damaged(1, event.Store, key, errs.New(errs.Corrupt, "the boot list does not match its checksum"))
		r.repaired(1, event.Store, key, "it was a hint, and was replaced or removed")
	}
	return err
}
