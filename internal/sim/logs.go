package sim

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
)

// sender is one life of a host.
type sender struct{ machine, life int }

type rootKey = blockmap.Root

// entry is an object of a log, as it took effect in the store.
type entry struct {
	*commitlog.Object
	from    sender
	content image
	snaps   map[string]image
	ahead   bool // it was put beyond the tip, as a seal
	gone    bool // a collector took it
	landed  time.Time
}

// close makes a seal that was put ahead the one of what is before it.
func (e *entry) close(prev *entry) {
	seal := *e.Object
	seal.Ahead, seal.Tombstone = 0, prev.Tombstone
	if !prev.Bare() {
		seal.State = prev.Carry()
		seal.State.SealedBy, seal.State.Cause, seal.State.Time = e.State.SealedBy, e.State.Cause, e.State.Time
	}
	e.Object, e.content, e.snaps, e.ahead = &seal, prev.content, prev.snaps, true
}

// unfolded is how many commits, and blocks that they name, opening the volume reads to
// replay data. Under mu.
func (w *world) unfolded(e *entry) (n uint64) {
	for _, run := range e.Carry().DataCommits {
		n += run.Last - run.First + 1 // some of them have no data, which only reading them tells
		for at := run.First; at <= run.Last; at++ {
			if x := w.logs[run.Name].entries[commitlog.Generation{Epoch: run.Epoch, Number: at}]; x != nil && len(x.Data) > 0 {
				rs, _ := commitlog.DecodeData(x.Data) // checked before
				for _, r := range rs {
					if r.Block != nil {
						n++
					}
				}
			}
		}
	}
	return n
}

// volumeLog is the log of one name. tip is the end of what counts of it.
type volumeLog struct {
	name    string
	entries map[commitlog.Generation]*entry
	tip     commitlog.Generation
}

func (g *volumeLog) newest() *entry { return g.entries[g.tip] }

// runEnd is the end of the unbroken run of an epoch, zero if it is not begun.
func (g *volumeLog) runEnd(epoch uint64) (end commitlog.Generation) {
	at := commitlog.Generation{Epoch: epoch, Number: 1}
	for g.entries[at] != nil {
		if end = at; g.entries[at].Closes() {
			break
		}
		at = at.Next()
	}
	return end
}

// gap tells whether something lies beyond a gap after the tip.
func (g *volumeLog) gap(tip commitlog.Generation) bool {
	for at := range g.entries {
		if at.Epoch == tip.Epoch && at.Number > tip.Number+1 {
			return true
		}
	}
	return false
}

// counts tells whether the object at a generation is part of the log.
func (g *volumeLog) counts(at commitlog.Generation) bool {
	end := g.runEnd(at.Epoch)
	return g.entries[at] != nil && at.Number <= end.Number
}

// created is told of every object that is created in the store, at the moment
// when that takes effect: all that a commit promises has to be true now.
func (w *world) created(key string, data []byte, from sender) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkSealed(key, data)
	if strings.HasPrefix(key, "pins/") {
		if pin, err := pinobject.Decode(data); err == nil {
			w.pins[key] = pin
		}
		return
	}
	vol, at, err := commitlog.ParseKey(key)
	if err != nil {
		return
	}
	o, err := w.tenant.Decode(key, data)
	if err != nil {
		w.violateLocked(publishedIsComplete, "commit %s of %s: %v", at, vol.Name, err)
		return
	}
	g := w.logs[vol.Name]
	if g == nil {
		g = &volumeLog{name: vol.Name, entries: map[commitlog.Generation]*entry{}}
		w.logs[vol.Name] = g
	}
	g.entries[at] = &entry{Object: o, from: from, landed: time.Now()}
	w.advance(g)
	w.checkKept("commit " + at.String() + " of " + vol.Name)
}

// advance finds the new end of a log, and checks what has become part of it. Under mu.
func (w *world) advance(g *volumeLog) {
	for {
		before := g.tip
		next := before.Next()
		if e := g.entries[before]; e == nil || e.Closes() || g.entries[next] == nil {
			next = commitlog.Generation{}
			for at := range g.entries { // the greatest epoch that is begun
				if at.Number == 1 && at.Epoch > before.Epoch && at.Epoch > next.Epoch {
					next = at
				}
			}
			if next.IsZero() {
				return
			}
		}
		g.tip = next
		if e := g.entries[next]; e.SealAhead() { // now it is known what it closes
			e.close(g.entries[before])
		} else if !e.Bare() {
			w.read(e) // not before: a commit may be sent, and land, ahead of those that it rests on
		}
		w.follows(g, before, g.entries[next])
	}
}

// deleted is told of every key that is removed.
func (w *world) deleted(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := pack.ParseKey(key); err == nil && w.params.retention == 0 {
		w.violateLocked(reachableIsKept, "%s is deleted, and no collector runs", key)
	}
	if vol, at, err := commitlog.ParseKey(key); err == nil {
		w.collected(vol, at, false)
	}
	if _, ok := w.pins[key]; ok {
		delete(w.pins, key)
		w.checkKept("dropping a pin")
	}
}

// replaced is told of every object that is put in the place of another.
func (w *world) replaced(key string, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checkSealed(key, data)
	vol, at, err := commitlog.ParseKey(key)
	if err != nil {
		return
	}
	if o, err := w.tenant.Decode(key, data); err != nil || o.Kind != commitlog.Stub {
		w.violateLocked(oneWriter, "%s %s is overwritten by what is no stub", vol.Name, at)
		return
	}
	w.collected(vol, at, true)
}

// follows checks an object that became the tip of its log. Under mu.
func (w *world) follows(g *volumeLog, before commitlog.Generation, e *entry) {
	at := e.Generation
	prev := g.entries[before]
	switch {
	case prev == nil:
	case at.Epoch == before.Epoch && prev.Closes():
		w.violateLocked(oneWriter, "%s %s follows the seal %s", g.name, at, before)
	case at.Epoch != before.Epoch && !prev.Closes():
		w.violateLocked(oneWriter, "%s %s begins an epoch while %s is open", g.name, at, before)
	}
	if e.Kind == commitlog.Commit {
		if opener := g.entries[commitlog.Generation{Epoch: at.Epoch, Number: 1}]; opener.from != e.from {
			w.violateLocked(oneWriter, "%s %s is of host %d in its life %d, and the epoch of host %d in its life %d",
				g.name, at, e.from.machine, e.from.life, opener.from.machine, opener.from.life)
		}
	}
	if prev != nil && !prev.Bare() && !e.Bare() && prev.State.ID == e.State.ID && e.Kind != commitlog.Commit && e.State.Cause != commitlog.CauseFork {
		if !e.content.equal(prev.content) && w.lineOf(e) == nil {
			w.violateLocked(noSilentRollback, "%s %s does not carry on what %s holds", g.name, at, before)
		}
	}
	if !e.Bare() {
		w.published(g, e)
	}
}

// lineOf is the line from which an object was made, nil if it carries over what
// it found. Under mu.
func (w *world) lineOf(e *entry) *line {
	for i := len(w.lines) - 1; i >= 0; i-- {
		l := w.lines[i]
		if l.m.index != e.from.machine || l.id != e.State.ID.String() || l.taking && (l.ended || l.name != e.State.Name) {
			continue // a line may be taken under a name that its volume was to get, while the host has it
		}
		if l.taking {
			return nil
		}
		return l
	}
	return nil
}

// published checks what a host says of its volume. prefix: it is a cut, and not
// older than what it said before.
func (w *world) published(g *volumeLog, e *entry) {
	l := w.lineOf(e)
	if l == nil {
		return
	}
	if e.Kind == commitlog.Seal && !e.Released || e.State.Reserved && e.State.Cause == commitlog.CauseRename {
		return // carried over, or not the volume's name yet
	}
	from := max(l.stored, 0)
	n, most, ok := l.find(e.content, from, l.last())
	if !ok {
		n := min(from, l.last())
		w.violateLocked(prefix, "%s %s, by host %d, is not a cut of %s after write %d: %s", g.name, e.Generation, e.from.machine, l, n, l.explain(e.content, n))
		return
	}
	l.stored, l.owns, l.inStore = n, true, e.content
	w.trace("%s: %s holds %d of %d writes", l, e.Generation, n, l.last())
	if e.Released {
		if most < l.durable {
			w.violateLocked(flushIsDurable, "%s was released at %s with %d writes, of %d that were flushed", l, e.Generation, n, l.durable)
		}
	}
}

// read reads what a commit names, and checks that all of it is there. Under mu.
func (w *world) read(e *entry) {
	s := &e.State
	bad := func(err error) {
		w.violateLocked(publishedIsComplete, "commit %s of %s: %v", e.Generation, s.Name, err)
	}
	c, err := w.stored(s.Root, s.Size, s.BlockSize)
	if err != nil {
		bad(err)
		return
	}
	if e.content, err = w.onTop(c, s, e.Data); err != nil {
		bad(err)
	}
	w.apart(e, s.Root)
	e.snaps = map[string]image{}
	for _, snap := range s.Snapshots {
		w.apart(e, snap.Root)
		if e.snaps[snap.Name], err = w.stored(snap.Root, snap.Size, s.BlockSize); err != nil {
			bad(fmt.Errorf("snapshot %s: %w", snap.Name, err))
		}
	}
}

// apart checks that what a commit names under a root is of the domain that its volume is of.
// sealed-home. Under mu.
func (w *world) apart(e *entry, root rootKey) {
	domain := e.State.Isolated
	if domain == 0 {
		domain = w.tenant.Home()
	}
	if t := w.trees[root]; t != nil {
		for _, r := range t.refs {
			if r.Pack.Domain != domain {
				w.violateLocked(sealedHome, "%s %s is of domain %08x, and names %s", e.State.Name, e.Generation, domain, r.Pack.Key())
				return
			}
		}
	}
}

// onTop is the content of a map with data commits over it. Under mu.
func (w *world) onTop(c image, s *commitlog.State, own []byte) (image, error) {
	over := func(data []byte) error {
		if len(data) == 0 {
			return nil
		}
		rs, err := commitlog.DecodeData(data)
		if err != nil {
			return err
		}
		for _, r := range rs {
			m := make(image, r.Len/sectorSize)
			if r.Block != nil {
				if m, err = w.block(*r.Block, int(r.Len), int(r.Off/sectorSize)); err != nil {
					return err
				}
			} else if r.Data != nil {
				if m, err = stamps(r.Data, int(r.Off/sectorSize)); err != nil {
					return err
				}
			}
			c = c.clone(int(r.Off/sectorSize) + len(m))
			copy(c[r.Off/sectorSize:], m)
		}
		return nil
	}
	for _, run := range s.DataCommits {
		for n := run.First; n <= run.Last; n++ {
			g := w.logs[run.Name]
			if g == nil || g.entries[commitlog.Generation{Epoch: run.Epoch, Number: n}] == nil {
				return nil, fmt.Errorf("data commit %d.%d of %s is not there", run.Epoch, n, run.Name)
			}
			if err := over(g.entries[commitlog.Generation{Epoch: run.Epoch, Number: n}].Data); err != nil {
				return nil, err
			}
		}
	}
	return c, over(own)
}

// tree is a block map that was read.
type tree struct {
	content image
	refs    []pack.Ref // of its pages and blocks
}

// stored is the content of a block map in the store. published-is-complete:
// everything under the root is there, and whole. Under mu.
func (w *world) stored(root rootKey, size uint64, blockSize uint32) (image, error) {
	if root.IsHole() {
		return nil, nil
	}
	t := w.trees[root]
	if t == nil {
		t = &tree{}
		if err := w.walk(t, root, size, blockSize); err != nil {
			return nil, err
		}
		w.trees[root] = t
	}
	for _, r := range t.refs {
		if err := w.there(r); err != nil {
			return nil, err
		}
	}
	return t.content, nil
}

func (w *world) walk(t *tree, root rootKey, size uint64, blockSize uint32) error {
	ctx := context.Background()
	m, err := blockmap.New(w.source(root), root, (size+uint64(blockSize)-1)/uint64(blockSize))
	if err != nil {
		return err
	}
	if err := m.WalkPages(ctx, nil, func(r pack.Ref, _ blockmap.Page) error {
		t.refs = append(t.refs, r)
		return nil
	}); err != nil {
		return err
	}
	per := int(blockSize) / sectorSize
	return m.Walk(ctx, 0, m.Blocks(), func(idx uint64, r pack.Ref) error {
		t.refs = append(t.refs, r)
		part, err := w.block(r, int(blockSize), int(idx)*per)
		if err != nil {
			return err
		}
		t.content = t.content.clone((int(idx) + 1) * per)
		copy(t.content[int(idx)*per:], part)
		return nil
	})
}

// block is the content of a block in the store, which begins at a sector.
func (w *world) block(r pack.Ref, size, sector int) (image, error) {
	if part, ok := w.blocks[r.Hash]; ok {
		return part, w.there(r)
	}
	raw, err := w.reader.fetch(r, size)
	if err != nil {
		return nil, err
	}
	part, err := stamps(raw, sector)
	if err == nil {
		w.blocks[r.Hash] = part
	}
	return part, err
}

// reader reads the store as it is, for the model.
type reader struct{ w *world }

// source reads the pages under a root, which may all be of one domain only.
func (w *world) source(root rootKey) *blockmap.Source {
	return w.pages.Source(w.reader, w.tenant.Hasher(root.Ref.Pack.Domain))
}

func (r reader) fetch(ref pack.Ref, maxRaw int) ([]byte, error) {
	raw, err := forward.Follow(r.w.store).GetRange(context.Background(), ref.Pack.Key(), int64(ref.Off), int64(ref.Len))
	if err != nil {
		return nil, err
	}
	h, err := r.w.tenant.Hasher(ref.Pack.Domain).Newest(context.Background()) // a host may have begun another root
	if err != nil {
		return nil, err
	}
	return pack.Open(h, ref, raw, nil, maxRaw)
}

// Page implements blockmap.Pages.
func (r reader) Page(_ context.Context, ref pack.Ref) ([]byte, error) { return r.fetch(ref, 1<<20) }

// checkKept checks that what local children lie over could not be collected:
// the newest commit of some volume names it, or a pin does. Under mu.
// reachable-is-kept.
func (w *world) checkKept(after string) {
	if w.kept == nil {
		w.kept, w.open = map[rootKey]bool{}, map[rootKey]bool{}
	}
	clear(w.kept)
	clear(w.open)
	for _, g := range w.logs {
		e := g.newest()
		if e == nil || e.Bare() {
			continue
		}
		w.keep(e)
		for at, x := range g.entries {
			if at.Epoch == g.tip.Epoch && !x.Bare() {
				w.open[x.State.Root] = true
			}
		}
		for _, s := range e.State.SealedFrom {
			if x := g.entries[s.Generation]; x != nil && !x.Bare() {
				w.keep(x)
			}
		}
	}
	for _, p := range w.pins {
		for _, r := range p.Roots {
			w.kept[r] = true
		}
		if p.Commit != "" {
			if vol, at, err := commitlog.ParseKey(p.Commit); err == nil && w.logs[vol.Name] != nil {
				if x := w.logs[vol.Name].entries[at]; x != nil && !x.Bare() {
					w.keep(x)
				}
			}
		}
	}
	for _, l := range w.lines {
		switch {
		case l.maybe || l.ended || l.ending || l.owns || l.baseRoot.IsHole() || w.kept[l.baseRoot]:
			l.unkept = time.Time{}
		case l.behind && w.open[l.baseRoot]:
			// Its host did not live to note a newer commit: while it does not know, no
			// commit is removed from the epoch (rule 1.3), which it pins before it goes on.
			l.unkept = time.Time{}
		case l.unkept.IsZero():
			l.unkept, l.unkeptBy = time.Now(), after
		case time.Since(l.unkept) > keepWithin:
			w.violateLocked(reachableIsKept, "since %s nothing keeps what %s lies over", l.unkeptBy, l)
		}
	}
}

// keepWithin is how long what a local child lies over may be kept by the history
// alone: a fork that is made while its source is being published is pinned after that.
const keepWithin = 10 * time.Minute

func (w *world) keep(e *entry) {
	w.kept[e.State.Root] = true
	for _, s := range e.State.Snapshots {
		w.kept[s.Root] = true
	}
}

// excused tells whether an error may be the weather's.
func (w *world) excused(err error) bool {
	switch errs.KindOf(err) {
	case errs.Unavailable:
		return true
	case errs.Corrupt, errs.Unsupported: // of a version that nobody wrote
		return w.flipped > 0 || w.rotten
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
