package gc

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/installation"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// Options are the settings of a collector.
type Options struct {
	Store     objstore.Store
	By        string        // names the collector in its objects; for people only
	Grace     time.Duration // between flag and verdict, by the store's clock; for undelete, not for safety
	Retention time.Duration // how long commits that were replaced are kept, by the store's clock
	Compact   int64         // bytes of packs that a round reads to compact them; 0: 1 GiB, below 0: none
	MinDead   int64         // bytes of a pack that have to be dead before it is compacted; 0: 32 KiB
	Memory    *Memory       // what earlier rounds of this process have read; may be nil
	DryRun    bool          // only tell what would be flagged
	Rand      io.Reader     // of the names of new packs; nil: the system's
	Log       *slog.Logger
}

// Result is what one run did. Live and Foreign are of the list at its beginning.
type Result struct {
	Round            uint64 // the last round that was worked on; 0: none was needed
	LiveObjects      int
	LiveBytes        int64
	FlaggedObjects   int
	FlaggedBytes     int64
	DeletedObjects   int
	DeletedBytes     int64
	CompactedPacks   int   // they are among the deleted objects
	CopiedBytes      int64 // into new packs
	ForeignObjects   int
	ForeignExample   string
	WaitsForGraceFor time.Duration // the open round is this young
}

// collector is one run.
type collector struct {
	Options
	mark *mark     // of this process's first mark; nil before it
	at   time.Time // when the run last asked, by the store's clock
	res  Result

	early []compacted // a planted fault
}

// Run goes on with the open round of each domain, or begins one. With grace 0 the round is
// over when it returns, unless there was nothing to collect.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	o.Compact = cmp.Or(o.Compact, defaultCompact)
	o.MinDead = cmp.Or(o.MinDead, defaultMinDead)
	c := &collector{Options: o}
	inv, err := c.inventory(ctx)
	if err != nil {
		return c.res, err
	}
	for _, d := range inv.domains() {
		if err := c.domain(ctx, d, inv); err != nil {
			return c.res, fmt.Errorf("collecting garbage: %w", err)
		}
	}
	if c.mark != nil && c.Memory != nil { // else nothing was asked for
		c.Memory.logs.Turn()
	}
	return c.res, nil
}

// inventory is all that the store holds.
type inventory struct {
	packs   map[uint32][]flaggedObject
	open    map[uint32]bool            // domains with a flag list or a verdict
	keys    map[uint32][]flaggedObject // forwards, and in domain 0 boot lists
	objects int
	bytes   int64
	newest  time.Time // when the newest object was written, by the store's clock
}

func (inv *inventory) domains() []uint32 {
	d := []uint32{0}
	for x := range inv.packs {
		d = append(d, x)
	}
	for x := range inv.open { // whose packs may be gone: a crash came before the round was closed
		d = append(d, x)
	}
	slices.Sort(d)
	return slices.Compact(d)
}

// inventory lists the store. It comes before the mark, so that what is new is not taken
// for garbage.
func (c *collector) inventory(ctx context.Context) (*inventory, error) {
	inv := &inventory{packs: map[uint32][]flaggedObject{}, keys: map[uint32][]flaggedObject{}, open: map[uint32]bool{}}
	err := objstore.ListAll(ctx, c.Store, "", "", func(in objstore.Info) bool {
		f := flaggedObject{in.Key, in.Size}
		if id, err := pack.ParseKey(in.Key); err == nil {
			inv.packs[id.Domain] = append(inv.packs[id.Domain], f)
		} else if boot.IsKey(in.Key) {
			inv.keys[0] = append(inv.keys[0], f)
		} else if from, _, is := forward.ParseKey(in.Key); is {
			inv.keys[from.Domain] = append(inv.keys[from.Domain], f)
		} else if !ours(in.Key) {
			if c.res.ForeignObjects++; c.res.ForeignExample == "" {
				c.res.ForeignExample = in.Key
			}
			return true
		}
		if d, part, ok := parseRoundKey(in.Key); ok && part != partClosed {
			inv.open[d] = true
		}
		inv.objects++
		inv.bytes += in.Size
		if in.Modified.After(inv.newest) {
			inv.newest = in.Modified
		}
		return true
	})
	c.res.LiveObjects, c.res.LiveBytes = inv.objects, inv.bytes
	return inv, err
}

// ours tells whether a key that is neither a pack nor a boot list is Glide's.
func ours(key string) bool {
	_, _, err := commitlog.ParseKey(key)
	return err == nil || strings.HasPrefix(key, "pins/") || strings.HasPrefix(key, "gc/") || key == installation.Key
}

// domain goes on with the open round of a domain, and with grace 0 or if none was open,
// begins the next.
func (c *collector) domain(ctx context.Context, d uint32, inv *inventory) error {
	r, err := newest(ctx, c.Store, d)
	if err != nil {
		return err
	}
	if r.open() {
		if c.DryRun {
			return c.count(ctx, &r)
		}
		done, err := c.finish(ctx, &r)
		if err != nil || !done || c.Grace > 0 {
			return err
		}
		inv = nil // it has changed
	}
	if inv == nil {
		c.res.ForeignObjects = 0
		if inv, err = c.inventory(ctx); err != nil {
			return err
		}
		c.mark = nil
	}
	return c.begin(ctx, &r, inv)
}

// count adds up what an open round has flagged.
func (c *collector) count(ctx context.Context, r *round) error {
	f, err := readFlags(ctx, c.Store, r)
	if err == nil {
		c.res.Round = r.number
		c.flagged(f)
	}
	return err
}

func (c *collector) flagged(f *flags) {
	n, b := f.total()
	c.res.FlaggedObjects += n
	c.res.FlaggedBytes += b
	c.res.LiveObjects -= n
	c.res.LiveBytes -= b
}

// total is the number of objects and bytes that a flag list names.
func (f *flags) total() (objects int, bytes int64) {
	for _, l := range [][]flaggedObject{f.Packs, f.Keys} {
		for _, x := range l {
			objects++
			bytes += x.Bytes
		}
	}
	for _, e := range f.Epochs {
		objects += e.Objects
		bytes += e.Bytes
	}
	return objects, bytes
}

// begin marks, and flags what was not marked.
func (c *collector) begin(ctx context.Context, last *round, inv *inventory) error {
	now := inv.newest // a dry run writes nothing, not even to learn the time
	if c.at = now; !c.DryRun {
		var err error
		if now, err = c.now(ctx); err != nil {
			return err
		}
	}
	l, err := c.marked(ctx)
	if err != nil {
		return err
	}
	grace := c.Grace.Milliseconds()
	f := flags{header: header{formatFlags, version, last.domain, last.number + 1, c.By}, GraceMs: &grace}
	for _, p := range inv.packs[last.domain] {
		if !c.mark.reached(p.Key) && len(f.Packs) < maxFlags {
			f.Packs = append(f.Packs, p)
		}
	}
	for _, k := range inv.keys[last.domain] {
		if !c.mark.kept(k.Key) && len(f.Keys) < maxFlags {
			f.Keys = append(f.Keys, k)
		}
	}
	if last.domain == 0 {
		if fault.Is("gc-trusts-a-host's-clock") {
			now = now.Add(2 * c.Retention)
		}
		f.Epochs = l.past(now.Add(-c.Retention), c.at, c.mark.needed)
	}
	f.Compact = c.candidates(inv.packs[last.domain])
	if fault.Is("gc-compacts-before-the-flag") {
		if c.early, err = c.compact(ctx, last.domain, f.Compact); err != nil {
			return err
		}
	}
	if n, _ := f.total(); n == 0 && len(f.Compact) == 0 {
		return nil
	}
	c.flagged(&f)
	if c.DryRun {
		return nil
	}
	c.res.Round = f.Round
	r := round{domain: f.Domain, number: f.Round, flagged: true, flaggedAt: now}
	mine, err := create(ctx, c.Store, key(f.Domain, f.Round, partFlags), f)
	if err != nil {
		return err
	}
	if err := c.remove(ctx, last.old); err != nil { // of rounds before the last
		return err
	}
	if !mine || c.Grace > 0 {
		return nil // another collector began this round, and goes on with it
	}
	_, err = c.finish(ctx, &r)
	return err
}

// marked runs the mark: the whole of it the first time, later what is new. What was listed
// can be gone when it is read, because another collector runs, too: then all is marked
// anew. What is missing twice is lost.
func (c *collector) marked(ctx context.Context) (*logs, error) {
	for missing := ""; ; {
		if c.mark == nil {
			c.mark = newMark(c.Store, c.Memory)
		}
		l, err := c.mark.run(ctx)
		if err == nil {
			return l, nil
		}
		c.mark = nil // parts of it may be missing
		c.Memory.forget()
		if !errors.Is(err, errs.NotFound) || err.Error() == missing {
			return nil, err
		}
		missing = err.Error()
	}
}

// finish judges a flagged round, deletes what is condemned and closes it. It reports
// whether it did: the grace period may not be over.
func (c *collector) finish(ctx context.Context, r *round) (bool, error) {
	c.res.Round = r.number
	f, err := readFlags(ctx, c.Store, r)
	if err != nil {
		if over, oerr := c.over(ctx, r); over || oerr != nil {
			return false, oerr
		}
		return false, err
	}
	if !r.judged {
		now, err := c.now(ctx)
		if err != nil {
			return false, err
		}
		if age := now.Sub(r.flaggedAt); age < c.Grace {
			c.res.WaitsForGraceFor = c.Grace - age
			c.flagged(f)
			return false, nil
		}
		if err := c.judge(ctx, r, f); err != nil {
			return false, err
		}
	}
	v, verr := readVerdict(ctx, c.Store, r, f)
	// This process may have slept since it read the round. If the round is over, a flag list
	// and a verdict that came late mean nothing, and need not fit each other.
	if over, err := c.over(ctx, r); over || err != nil {
		return false, err
	}
	if verr != nil {
		return false, verr
	}
	if fault.Is("gc-closes-before-it-deletes") {
		if err := c.close(ctx, r); err != nil {
			return false, err
		}
	}
	if err := c.execute(ctx, f, v); err != nil {
		return false, err
	}
	return true, c.close(ctx, r)
}

// over tells whether another collector has closed a round.
func (c *collector) over(ctx context.Context, r *round) (bool, error) {
	now, err := newest(ctx, c.Store, r.domain)
	return err == nil && (now.number != r.number || now.closed), err
}

// always is after every time.
var always = time.Unix(1<<40, 0)

// judge marks again and creates the verdict, unless another collector was faster.
func (c *collector) judge(ctx context.Context, r *round, f *flags) error {
	v := verdict{header: header{formatVerdict, version, r.domain, r.number, c.By}}
	if !fault.Is("gc-one-mark") {
		l, err := c.marked(ctx)
		if err != nil {
			return err
		}
		for i, p := range f.Packs {
			if c.mark.reached(p.Key) {
				v.SparedPacks = append(v.SparedPacks, i)
			}
		}
		past := map[epochID]bool{}
		for _, e := range l.past(always, c.at, c.mark.needed) { // the age was judged at the flag
			past[e.epochID] = true
		}
		for i, e := range f.Epochs {
			if !past[e.epochID] {
				v.SparedEpochs = append(v.SparedEpochs, i)
			}
		}
		for i, k := range f.Keys {
			if c.mark.kept(k.Key) {
				v.SparedKeys = append(v.SparedKeys, i)
			}
		}
		if v.Compacted = c.early; c.early == nil {
			if v.Compacted, err = c.compact(ctx, r.domain, f.Compact); err != nil {
				return err
			}
		}
	}
	_, err := create(ctx, c.Store, key(r.domain, r.number, partVerdict), v)
	return err
}

// sideBySideEach calls fn for each of the list, some of them at a time.
func sideBySideEach[T any](ctx context.Context, list []T, fn func(context.Context, T) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(sideBySide)
	for _, x := range list {
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			return fn(gctx, x)
		})
	}
	return g.Wait()
}

// execute deletes what the verdict condemns, and puts stubs where epochs were.
func (c *collector) execute(ctx context.Context, f *flags, v *verdict) error {
	var keys []string
	var bytes int64
	add := func(list []flaggedObject, spared []int) {
		for i, x := range list {
			if _, kept := slices.BinarySearch(spared, i); !kept {
				keys = append(keys, x.Key)
				bytes += x.Bytes
			}
		}
	}
	add(f.Packs, v.SparedPacks)
	add(f.Keys, v.SparedKeys)
	late := fault.Is("gc-deletes-before-it-forwards")
	if !late {
		superseded, err := c.redirect(ctx, f, v)
		if err != nil {
			return err
		}
		keys = append(keys, superseded...)
	}
	for _, x := range v.Compacted {
		keys = append(keys, f.Compact[x.Pack].Key)
		bytes += f.Compact[x.Pack].Bytes
	}
	c.res.CompactedPacks += len(v.Compacted)
	var epochs []epochFlag
	for i, e := range f.Epochs {
		if _, kept := slices.BinarySearch(v.SparedEpochs, i); !kept {
			epochs = append(epochs, e)
		}
	}
	// All of them stop being roots before anything that one of them names goes.
	if err := sideBySideEach(ctx, epochs, c.bury); err != nil {
		return err
	}
	for _, e := range epochs {
		if err := c.collect(ctx, e.epochID); err != nil {
			return err
		}
		c.res.DeletedBytes += e.Bytes
		c.res.DeletedObjects += e.Objects
	}
	if err := c.remove(ctx, keys); err != nil {
		return err
	}
	if late {
		if _, err := c.redirect(ctx, f, v); err != nil {
			return err
		}
	}
	c.res.DeletedObjects += len(keys)
	c.res.DeletedBytes += bytes
	return nil
}

// bury puts a stub in the place of an epoch's first object, so that nothing of it is a root
// any more.
func (c *collector) bury(ctx context.Context, e epochFlag) error {
	raw, err := c.Store.Get(ctx, e.key())
	if errors.Is(err, errs.NotFound) {
		return nil // its name was forgotten meanwhile
	}
	if err != nil {
		return err
	}
	o, err := commitlog.Decode(raw)
	if err != nil || o.Kind == commitlog.Stub {
		return err
	}
	if raw, err = o.Stub().Encode(); err != nil {
		return err
	}
	return c.Store.Put(ctx, e.key(), raw)
}

// collect collects a buried epoch: a stub for its seal, nothing for the rest. It may be
// called again.
func (c *collector) collect(ctx context.Context, e epochID) error {
	p := path.Dir(e.key()) + "/"
	at := func(n uint64) string { return e.log().Key(commitlog.Generation{Epoch: e.Epoch, Number: n}) }
	var numbers []uint64
	err := objstore.ListAll(ctx, c.Store, p, "", func(in objstore.Info) bool {
		if _, g, err := commitlog.ParseKey(in.Key); err == nil {
			numbers = append(numbers, g.Number)
		}
		return true
	})
	if err != nil {
		return err
	}
	objects := make([]*commitlog.Object, len(numbers))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(sideBySide)
	for i, n := range numbers {
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			raw, err := c.Store.Get(gctx, at(n))
			if errors.Is(err, errs.NotFound) {
				return nil // another collector is at it, too
			}
			if err == nil {
				objects[i], err = commitlog.Decode(raw)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var gone []string
	sealed := false
	for i, o := range objects {
		switch {
		case o == nil:
		case o.Generation.Number == 1:
		case o.Closes() && !sealed && !fault.Is("gc-deletes-seals"):
			sealed = true
			if o.Kind == commitlog.Stub {
				break
			}
			raw, err := o.Stub().Encode()
			if err == nil {
				err = c.Store.Put(ctx, at(numbers[i]), raw)
			}
			if err != nil {
				return err
			}
		default:
			gone = append(gone, at(numbers[i]))
		}
	}
	return c.remove(ctx, gone)
}

// remove deletes objects, a thousand at a time.
func (c *collector) remove(ctx context.Context, keys []string) error {
	for len(keys) > 0 {
		n := min(len(keys), 1000)
		if err := c.Store.DeleteBatch(ctx, keys[:n]); err != nil {
			return fmt.Errorf("deleting: %w; the round stays open, and the next run goes on with it", err)
		}
		keys = keys[n:]
	}
	return nil
}

// close ends a round: its number is used, and everything that its verdict condemned is
// gone. The flags go before the verdict, which tells how far a crash came.
func (c *collector) close(ctx context.Context, r *round) error {
	_, err := create(ctx, c.Store, key(r.domain, r.number, partClosed), header{formatClosed, version, r.domain, r.number, c.By})
	if err != nil {
		return err
	}
	return c.remove(ctx, []string{key(r.domain, r.number, partFlags), key(r.domain, r.number, partVerdict)})
}

// now is the store's clock.
func (c *collector) now(ctx context.Context) (now time.Time, err error) {
	now, err = StoreTime(ctx, c.Store, c.By)
	c.at = now
	return now, err
}

// StoreTime is the store's clock, by the age of an object that is written for it.
func StoreTime(ctx context.Context, store objstore.Store, by string) (time.Time, error) {
	k := "gc/clock/" + by
	if err := store.Put(ctx, k, []byte("the collector asks what time it is\n")); err != nil {
		return time.Time{}, err
	}
	in, err := store.Head(ctx, k)
	return in.Modified, err
}
