package gc

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/gc/internal/reach"
	"github.com/paraglide/glide/internal/installation"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants"
)

// Options are the settings of a collector.
type Options struct {
	Store     objstore.Store
	Tenants   *tenants.Tenants // of the store; nil: all are plain
	By        string           // names the collector in its objects; for people only
	Grace     time.Duration    // between flag and verdict, by the store's clock; for undelete, not for safety
	Retention time.Duration    // how long commits that were replaced are kept, by the store's clock
	Compact   int64            // bytes of packs that a round reads to compact them; 0: 1 GiB, below 0: none
	MinDead   int64            // bytes of a pack that have to be dead before it is compacted; 0: 32 KiB
	Memory    *Memory          // what earlier rounds of this process have read; may be nil
	DryRun    bool             // only tell what would be flagged
	Rand      io.Reader        // of the names of new packs; nil: the system's
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
	Skipped          []Skipped     // domains of which no round could be run
	WaitsForGraceFor time.Duration // the open round is this young
}

// collector is one run.
type collector struct {
	Options
	marks *reach.Marks // of the domain that is worked on
	realm *realm       // the same
	at    time.Time    // when the run last asked, by the store's clock
	res   Result

	early []compacted // a planted fault
}

// Memory is what a collector remembers between its rounds.
type Memory = reach.Memory

// NewMemory returns an empty memory. One round at a time may use it.
func NewMemory() *Memory { return reach.NewMemory() }

// withDefaults fills in what may be left out.
func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	o.Compact = cmp.Or(o.Compact, defaultCompact)
	o.MinDead = cmp.Or(o.MinDead, defaultMinDead)
	return o
}

// Run goes on with the open round of each domain, or begins one. With grace 0 the round is
// over when it returns, unless there was nothing to collect. Trouble with one domain keeps
// no other waiting.
func Run(ctx context.Context, o Options) (Result, error) {
	c := &collector{Options: o.withDefaults()}
	inv, err := c.inventory(ctx)
	if err != nil {
		return c.res, err
	}
	rs, err := c.realms(ctx, inv)
	if err != nil {
		return c.res, err
	}
	marked := false
	var failed []error
	for _, d := range rs.domains(inv) {
		if c.realm = rs.realm(d); c.realm.why != nil {
			c.skip(c.realm)
			continue
		}
		c.marks = &reach.Marks{Scope: c.scope(c.realm, rs), Memory: c.Memory}
		if err := c.domain(ctx, d, inv); err != nil {
			failed = append(failed, fmt.Errorf("collecting garbage: %w", err))
			if ctx.Err() != nil {
				break
			}
		}
		marked = marked || c.marks.Mark != nil
	}
	if marked && len(failed) == 0 { // else nothing was asked for
		c.Memory.Turn()
	}
	return c.res, errors.Join(failed...)
}

// inventory is all that the store holds.
type inventory struct {
	packs    map[uint32][]flaggedObject
	open     map[uint32]bool // domains with a flag list or a verdict
	forwards map[uint32][]flaggedObject
	boots    map[string][]flaggedObject // boot lists, by tenant
	tenants  map[string]bool            // names of domains that have something, a record at least
	objects  int
	bytes    int64
	newest   time.Time // when the newest object was written, by the store's clock
}

// domains are those of which there are packs or an open round, and domain 0.
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
	inv := &inventory{packs: map[uint32][]flaggedObject{}, forwards: map[uint32][]flaggedObject{}, boots: map[string][]flaggedObject{}, open: map[uint32]bool{}, tenants: map[string]bool{}}
	err := objstore.ListAll(ctx, c.Store, "", "", func(in objstore.Info) bool {
		f := flaggedObject{in.Key, in.Size}
		inv.note(in.Key)
		if id, err := pack.ParseKey(in.Key); err == nil {
			inv.packs[id.Domain] = append(inv.packs[id.Domain], f)
		} else if boot.IsKey(in.Key) {
			inv.boots[reach.TenantOf(in.Key)] = append(inv.boots[reach.TenantOf(in.Key)], f)
		} else if from, _, is := forward.ParseKey(in.Key); is {
			inv.forwards[from.Domain] = append(inv.forwards[from.Domain], f)
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

// note notes whose an object is.
func (inv *inventory) note(key string) {
	name, ok := tenants.NameOf(key)
	if strings.HasPrefix(key, "t/") {
		name = reach.TenantOf(key)
		_, _, err := commitlog.ParseDomainName(name)
		ok = err == nil
	}
	if ok {
		inv.tenants[name] = true
	}
}

// keys are the forwards of a realm, and the boot lists of its tenants.
func (inv *inventory) keys(r *realm) []flaggedObject {
	list := slices.Clone(inv.forwards[r.domain])
	if !r.all || r.domain == 0 {
		for _, t := range slices.Sorted(maps.Keys(inv.boots)) {
			if r.owns(t) {
				list = append(list, inv.boots[t]...)
			}
		}
	}
	return list
}

// ours tells whether a key that is neither a pack nor a boot list is Glide's.
func ours(key string) bool {
	_, _, err := commitlog.ParseKey(key)
	return err == nil || key == installation.Key || slices.ContainsFunc([]string{"pins/", "gc/", "keys/", tenants.Prefix}, func(p string) bool { return strings.HasPrefix(key, p) })
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
		c.marks.Mark = nil
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

// begin flags what seems to be garbage.
func (c *collector) begin(ctx context.Context, last *round, inv *inventory) error {
	now := inv.newest // a dry run writes nothing, not even to learn the time
	if c.at = now; !c.DryRun {
		var err error
		if now, err = c.now(ctx); err != nil {
			return err
		}
	}
	grace := c.Grace.Milliseconds()
	f := flags{header: header{formatFlags, version, last.domain, last.number + 1, c.By}, GraceMs: &grace}
	var err error
	if c.realm.erased {
		err = c.flagErased(ctx, &f, inv)
	} else {
		err = c.flagGarbage(ctx, &f, inv, now)
	}
	if err != nil {
		return err
	}
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

// flagGarbage marks, and flags what was not marked.
func (c *collector) flagGarbage(ctx context.Context, f *flags, inv *inventory, now time.Time) error {
	l, err := c.marks.Next(ctx)
	if err != nil {
		return err
	}
	for _, p := range inv.packs[f.Domain] {
		if !c.marks.Reached(p.Key) && len(f.Packs) < maxFlags {
			f.Packs = append(f.Packs, p)
		}
	}
	for _, k := range inv.keys(c.realm) {
		if !c.marks.Kept(k.Key) && len(f.Keys) < maxFlags {
			f.Keys = append(f.Keys, k)
		}
	}
	if fault.Is("gc-trusts-a-host's-clock") {
		now = now.Add(2 * c.Retention)
	}
	f.Epochs = c.past(l, now.Add(-c.Retention))
	codec, err := c.codec(ctx, c.realm)
	if err != nil {
		return err
	}
	f.Compact = c.candidates(codec, inv.packs[f.Domain])
	return nil
}

// past returns the epochs that rounds of the realm collect: those that are of its domain.
func (c *collector) past(l *reach.Logs, before time.Time) []reach.PastEpoch {
	if c.realm.all && c.realm.domain != 0 {
		return nil
	}
	list := l.Past(before, c.at, c.marks.Needed())
	return slices.DeleteFunc(list, func(e reach.PastEpoch) bool { return !c.realm.owns(e.Domain) })
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
	switch {
	case c.realm.erased:
		c.judgeErased(f, &v)
	case !fault.Is("gc-one-mark"):
		if err := c.judgeGarbage(ctx, f, &v); err != nil {
			return err
		}
	}
	_, err := create(ctx, c.Store, key(r.domain, r.number, partVerdict), v)
	return err
}

// judgeGarbage marks again, and spares what is marked.
func (c *collector) judgeGarbage(ctx context.Context, f *flags, v *verdict) error {
	l, err := c.marks.Next(ctx)
	if err != nil {
		return err
	}
	for i, p := range f.Packs {
		if c.marks.Reached(p.Key) {
			v.SparedPacks = append(v.SparedPacks, i)
		}
	}
	past := map[reach.EpochID]bool{}
	for _, e := range l.Past(always, c.at, c.marks.Needed()) { // the age was judged at the flag
		past[e.EpochID] = true
	}
	for i, e := range f.Epochs {
		if !past[e.EpochID] {
			v.SparedEpochs = append(v.SparedEpochs, i)
		}
	}
	for i, k := range f.Keys {
		if c.marks.Kept(k.Key) {
			v.SparedKeys = append(v.SparedKeys, i)
		}
	}
	if v.Compacted = c.early; c.early == nil {
		v.Compacted, err = c.compact(ctx, v.Domain, f.Compact)
	}
	return err
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
	var epochs []reach.PastEpoch
	for i, e := range f.Epochs {
		if _, kept := slices.BinarySearch(v.SparedEpochs, i); !kept {
			epochs = append(epochs, e)
		}
	}
	if c.realm.erased {
		epochs = nil // of a verdict before that: the next round flags their objects
	}
	// All of them stop being roots before anything that one of them names goes.
	if err := reach.SideBySide(ctx, epochs, c.bury); err != nil {
		return err
	}
	for _, e := range epochs {
		if err := c.collect(ctx, e.EpochID); err != nil {
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
