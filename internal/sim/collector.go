package sim

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
	"github.com/paraglide/glide/internal/sim/tenant"
)

// Garbage is collected in one seed of two. The collectors are those of hosts, and
// processes of their own, several at a time, with a grace period of 0 or of an hour; some
// stop at every moment, and their requests come late like all others.

// collect and undelete are steps of seeds with collectors. Other seeds have the schedules
// that they would have without them.
var (
	collect  = op{name: "collect", run: (*world).collect}
	undelete = op{name: "undelete", run: (*world).undelete}
	restore  = op{name: "restore", run: (*world).restore}
)

func chooseRetention(seed uint64) time.Duration {
	if dice.Draw(seed, "collects")%2 == 0 {
		return 0 // no collectors
	}
	return []time.Duration{time.Second, time.Minute, time.Hour}[dice.Draw(seed, "retention")%3]
}

// collects returns the step of a collector that takes the place of another.
func (w *world) collects(step int) *op {
	switch x := dice.Draw(w.seed, "collect", uint64(step)) % 64; {
	case w.params.retention == 0 || x >= 12:
		return nil
	case x == 0:
		return &undelete
	case x < 3:
		return &restore
	}
	return &collect
}

// collect runs a round, or a part of one.
func (w *world) collect(d *dice.Dice) string {
	m := w.someMachine(d)
	u := m.Use()
	defer u.End()
	grace := time.Duration(0)
	if d.Chance(300) {
		grace = time.Hour
	}
	ctx, cancel := u.Ctx, func() {}
	if d.Chance(200) && ctx != nil { // it stops somewhere
		ctx, cancel = context.WithTimeout(ctx, d.Around(100*time.Millisecond))
	}
	defer cancel()
	var err error
	var r api.Collection
	switch {
	case u.Host == nil:
		return "down"
	case d.Chance(400):
		r, err = u.Host.Collect(ctx, api.CollectRequest{Grace: grace.String()})
	default:
		var res gc.Result
		res, err = gc.Run(ctx, w.collector(m.Store(u.Life), m.keys, grace, d.Next()))
		r.DeletedObjects, r.CompactedPacks = res.DeletedObjects, res.CompactedPacks
	}
	w.note(func(w *world) { w.checkRoots("a collector's run") })
	switch {
	case err == nil && r.CompactedPacks > 0:
		return "compacted"
	case err == nil && r.DeletedObjects > 0:
		return "deleted"
	case err == nil:
		return "ok"
	case ctx.Err() != nil, errors.Is(err, errs.NotFound): // another collector was faster
		return hardware.Kind(err)
	case w.excused(err):
		return hardware.Kind(err)
	}
	if m.Alive(u.Life) {
		w.violate(reachableIsKept, "a collector on host %d: %v", m.index, err)
	}
	return hardware.Kind(err)
}

func (w *world) collector(s objstore.Store, with *tenant.Provider, grace time.Duration, seed uint64) gc.Options {
	return gc.Options{Store: s, Tenants: tenant.Known(s, with), By: "sim", Grace: grace, Retention: w.params.retention, MinDead: 1, Rand: dice.Entropy(seed)}
}

// undelete takes back something that is flagged.
func (w *world) undelete(d *dice.Dice) string {
	m := w.someMachine(d)
	u := m.Use()
	defer u.End()
	if u.Host == nil {
		return "down"
	}
	plan, err := u.Host.CollectPlan(u.Ctx)
	if err != nil || len(plan) == 0 {
		return "skipped"
	}
	key := plan[d.N(len(plan))].Key
	if err := u.Host.Undelete(u.Ctx, []string{key}); err != nil {
		return hardware.Kind(err)
	}
	w.note(func(w *world) {
		if _, err := pack.ParseKey(key); err == nil {
			w.takenBack = append(w.takenBack, key)
		}
		w.checkRoots("taking " + key + " back")
	})
	return "ok"
}

// restore brings a removed volume back, under another name.
func (w *world) restore(d *dice.Dice) string {
	m := w.someMachine(d)
	u := m.Use()
	defer u.End()
	w.mu.Lock()
	var names []string
	for _, name := range sortedKeys(w.logs) {
		if e := w.logs[name].newest(); e != nil && e.Tombstone && e.State.RenamedTo == "" {
			names = append(names, name)
		}
	}
	w.mu.Unlock()
	if u.Host == nil || len(names) == 0 || w.live() >= w.params.volumes+2 {
		return "skipped"
	}
	name := names[d.N(len(names))]
	w.mu.Lock()
	g := w.logs[name]
	k := w.newLine(m, w.newName())
	w.mu.Unlock()
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	v, err := u.Host.Restore(ctx, name, k.name)
	if err != nil {
		m.ifAlive(u.Life, func() { k.ended = true })
		w.trace("h%d: restore %s: %v", m.index, name, err)
		if m.Alive(u.Life) && !w.mayRefuse(err) {
			w.violate(progress, "host %d cannot restore %s, without a reason (%v): %v", m.index, name, errs.KindOf(err), err)
		}
		return hardware.Kind(err)
	}
	res := "crash"
	m.ifAlive(u.Life, func() {
		res = "ok"
		mine := w.logs[k.name]
		if mine == nil || mine.newest() == nil {
			w.violateLocked(publishedIsComplete, "%s was restored as %s, which the store does not have", name, k.name)
			return
		}
		first := mine.entries[commitlog.Generation{Epoch: 1, Number: 1}]
		for at, e := range g.entries { // it is what some removal left
			if e.Bare() || !e.content.equal(first.content) {
				continue
			}
			if next := g.entries[commitlog.Generation{Epoch: at.Epoch + 1, Number: 1}]; e.Closes() && next != nil && next.Tombstone {
				w.adopt(k, mine.newest(), v.ID)
				return
			}
		}
		w.violateLocked(flushIsDurable, "%s was restored as %s, and is nothing that a removal left", name, k.name)
	})
	return res
}

// whole tells whether an object of a log is a root: it has a state, it is part of the
// log, and no collector has taken it. Under mu.
func (w *world) whole(g *volumeLog, e *entry) bool {
	if e.Bare() || e.gone || !g.counts(e.Generation) {
		return false
	}
	first := g.entries[commitlog.Generation{Epoch: e.Generation.Epoch, Number: 1}]
	return !first.gone
}

// checkRoots checks that everything that a commit in the store names can be read:
// reachable-is-kept. Under mu.
func (w *world) checkRoots(after string) {
	if w.params.retention == 0 || w.violation != nil {
		return
	}
	seen := map[pack.Ref]bool{}
	for _, g := range w.logs {
		for _, e := range g.entries {
			if !w.whole(g, e) {
				continue
			}
			for _, ref := range w.refs(e) {
				if seen[ref] {
					continue
				}
				seen[ref] = true
				if err := w.there(ref); err != nil {
					w.violateLocked(reachableIsKept, "after %s, commit %s of %s names %d bytes at %d of %s: %v", after, e.Generation, g.name, ref.Len, ref.Off, ref.Pack, err)
					return
				}
			}
		}
	}
	for _, key := range w.takenBack {
		if id, err := pack.ParseKey(key); err == nil {
			if _, err := w.store.Head(context.Background(), key); err != nil {
				w.violateLocked(reachableIsKept, "after %s, pack %s, which was taken back, is gone: %v", after, id, err)
				return
			}
		}
	}
}

// refs are the blocks and pages that a commit names, those of its data commits included.
// Under mu.
func (w *world) refs(e *entry) (out []pack.Ref) {
	s := &e.State
	roots := []rootKey{s.Root}
	for _, snap := range s.Snapshots {
		roots = append(roots, snap.Root)
	}
	for _, root := range roots {
		if t := w.trees[root]; t != nil {
			out = append(out, t.refs...)
		}
	}
	sections := [][]byte{e.Data}
	for _, run := range s.DataCommits {
		for n := run.First; n <= run.Last; n++ {
			at := commitlog.Generation{Epoch: run.Epoch, Number: n}
			if g := w.logs[run.Name]; g != nil && g.entries[at] != nil {
				if g.entries[at].gone {
					w.violateLocked(reachableIsKept, "commit %s of %s rests on data commit %s of %s, which is gone", e.Generation, s.Name, at, run.Name)
				}
				sections = append(sections, g.entries[at].Data)
			}
		}
	}
	for _, data := range sections {
		if len(data) > 0 {
			rs, _ := commitlog.DecodeData(data) // checked before
			for _, r := range rs {
				if r.Block != nil && !r.Block.IsHole() {
					out = append(out, *r.Block)
				}
			}
		}
	}
	return out
}

// there checks that a slot can be read: where it was put, or where it went.
func (w *world) there(ref pack.Ref) error {
	if _, err := w.store.Head(context.Background(), ref.Pack.Key()); err == nil {
		return nil
	}
	raw, err := forward.Follow(w.store).GetRange(context.Background(), ref.Pack.Key(), int64(ref.Off), int64(ref.Len))
	if err != nil {
		return err
	}
	h, err := w.tenant.Hasher(ref.Pack.Domain).Newest(context.Background()) // a host may have begun another root
	if err == nil {
		_, err = pack.Open(h, ref, raw, nil, 1<<20)
	}
	return err
}

// collected is told of a key of a log that a collector removes, or replaces by a stub.
// Under mu.
func (w *world) collected(vol commitlog.Volume, at commitlog.Generation, stub bool) {
	g := w.logs[vol.Name]
	if g == nil || g.entries[at] == nil {
		return
	}
	e := g.entries[at]
	switch {
	case at.Epoch >= g.tip.Epoch:
		w.violateLocked(reachableIsKept, "%s %s is collected, and the tip is %s", g.name, at, g.tip)
	case w.within(g, at):
		w.violateLocked(reachableIsKept, "%s %s is collected, and is not past the retention of %s", g.name, at, w.params.retention)
	case !stub && (at.Number == 1 || e.Closes() && g.counts(at)):
		w.violateLocked(oneWriter, "%s %s is deleted, which fences", g.name, at)
	}
	e.gone = true
}

// within tells whether the epoch after that of a commit began less than a retention ago,
// and no removal of the volume followed.
func (w *world) within(g *volumeLog, at commitlog.Generation) (yes bool) {
	yes = true
	for n := g.tip.Epoch; n > at.Epoch; n-- {
		next := g.entries[commitlog.Generation{Epoch: n, Number: 1}]
		if next != nil && next.Tombstone {
			return false
		}
		if next != nil {
			yes = time.Since(next.landed) < w.params.retention
		}
	}
	return yes
}

// atRest lets everything come to rest, collects, and checks that nothing is left in the
// store that nothing reaches, and that everything is there that something does.
func (w *world) atRest() {
	if w.params.retention == 0 || w.failed() {
		return
	}
	time.Sleep(2 * w.params.retention)
	ctx := context.Background()
	for n := range uint64(5) { // three after the last that a host's session, or a late request, was in the way of
		for _, m := range w.machines {
			if u := m.Use(); u.Host != nil {
				_, err := u.Host.Collect(ctx, api.CollectRequest{Grace: "0s"})
				u.End()
				// A pin that came back late stops rounds until its host has swept.
				if err != nil && !w.excused(err) && (n > 0 || !errors.Is(err, errs.NotFound)) {
					w.violate(progress, "in the end a collector on host %d: %v", m.index, err)
				}
			}
		}
		if _, err := gc.Run(ctx, w.collector(w.store, w.tenant.Provider(), 0, n)); err != nil && !w.excused(err) && n > 0 {
			w.violate(progress, "in the end a collector: %v", err)
		}
	}
	w.note(func(w *world) { w.checkRoots("the last rounds"); w.checkGarbage() })
}

// under are the pages and blocks under a root that a pin names, which no commit need name.
func (w *world) under(root rootKey) (out []pack.Ref) {
	if root.IsHole() {
		return nil
	}
	m, err := blockmap.New(w.source(root), root, root.Span())
	if err != nil {
		return nil
	}
	_ = m.WalkPages(context.Background(), nil, func(r pack.Ref, p blockmap.Page) error {
		out = append(out, r)
		for _, child := range p.All() {
			out = append(out, child)
		}
		return nil
	})
	return out
}

// checkGarbage checks that every pack in the store is reached. Under mu.
func (w *world) checkGarbage() {
	if w.violation != nil || w.rotten || w.flipped > 0 {
		return
	}
	reached := map[pack.ID]bool{}
	add := func(refs []pack.Ref) {
		for _, r := range refs {
			reached[r.Pack] = true
		}
	}
	for _, g := range w.logs {
		for _, e := range g.entries {
			if w.whole(g, e) {
				add(w.refs(e))
			}
		}
	}
	for _, p := range w.pins {
		for _, n := range p.Packs {
			reached[pack.ID(n)] = true
		}
		for _, root := range p.Roots {
			add(w.under(root))
		}
	}
	kept := func(id pack.ID) bool {
		for _, p := range w.pins {
			if string(p.Nonce[:]) == string(id.Nonce[:8]) {
				return true
			}
		}
		return reached[id]
	}
	var from []string
	_ = forward.Each(context.Background(), w.store, func(f, to pack.ID, in objstore.Info) {
		if from = append(from, in.Key); kept(f) {
			reached[to] = true
		}
	})
	_ = objstore.ListAll(context.Background(), w.store, "", "", func(in objstore.Info) bool {
		id, err := pack.ParseKey(in.Key)
		if f, _, is := forward.ParseKey(in.Key); is {
			id, err = f, nil
		}
		if err == nil && !kept(id) && !strings.HasPrefix(in.Key, "pins/") {
			w.violateLocked(bounded, "%s is left in the store, and nothing reaches it", in.Key)
		}
		return w.violation == nil
	})
}
