package scrub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/event"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/pack"
)

// Rates bound what is read in the background, in bytes a second; 0: nothing is.
type Rates struct{ Disk, Store uint64 }

// Stats are counters since the start, of all runs.
type Stats struct {
	Blocks, Bytes, Damaged, Repaired, Lost atomic.Uint64
}

// Scrubber checks and repairs a host and its store. All methods may be called
// concurrently.
type Scrubber struct {
	Stats Stats
	// Most bounds the references to the store that are in memory at a time. A store with
	// more is walked several times. Set it before the first run; a million.
	Most int

	disks *disk.Table
	pins  flush.Pins
	boots *boot.Boots
	rates Rates

	asked sync.Mutex // held by a run that was asked for: one at a time
	busy  sync.Mutex // held by every run; after asked

	mu   sync.Mutex // guards stop
	stop func()     // ends the pass in the background, if there is one
}

// New returns a scrubber.
func New(t *disk.Table, pins flush.Pins, boots *boot.Boots, rates Rates) *Scrubber {
	return &Scrubber{disks: t, pins: pins, boots: boots, rates: rates, Most: maxWants}
}

// Scrub checks this host, or what all volumes of the store reach, or both, as fast as it
// can, and repairs what it can.
func (s *Scrubber) Scrub(ctx context.Context, in api.ScrubRequest) (api.Scrub, error) {
	if in.StoreOnly && in.LocalOnly {
		return api.Scrub{}, errs.New(errs.Invalid, "only the store and only this host: that is nothing")
	}
	if !s.asked.TryLock() {
		return api.Scrub{}, errs.New(errs.Busy, "a scrub is running already")
	}
	defer s.asked.Unlock()
	s.mu.Lock()
	if s.stop != nil {
		s.stop() // it takes hours, and begins anew later
	}
	s.mu.Unlock()
	s.busy.Lock()
	defer s.busy.Unlock()
	return s.run(ctx, !in.StoreOnly, !in.LocalOnly, true, Rates{})
}

// run is one scrub. With all, it checks the whole store, otherwise what this host's
// volumes reach.
func (s *Scrubber) run(ctx context.Context, local, store, all bool, rates Rates) (api.Scrub, error) {
	began := s.disks.Now()
	ctx, stop := context.WithCancel(cost.With(ctx, cost.Scrub, cost.Volume{}))
	defer stop()
	defer context.AfterFunc(s.disks.Ctx, stop)() // a stop of the host ends it
	r := &run{Scrubber: s, ctx: ctx, all: all, report: api.Progress(ctx), lost: map[string]*loss{}, forwards: map[pack.ID][]string{}, locked: map[string]error{}, out: api.Scrub{Lost: []api.Lost{}, Locked: []string{}}}
	var err error
	if r.tenants, err = s.tenantNames(); err != nil {
		return r.out, err
	}
	r.lockOut()
	if local {
		r.pace = s.pacer(rates.Disk)
		err = r.local()
	}
	if store && ctx.Err() == nil {
		r.pace = s.pacer(rates.Store)
		err = errors.Join(err, r.store())
	}
	r.finish()
	r.out.ElapsedMs = s.disks.Since(began)
	if cerr := ctx.Err(); cerr != nil {
		err = cerr // what it could not do any more is no news
	}
	return r.out, err
}

// run is the state of one scrub, which is one goroutine's.
type run struct {
	*Scrubber
	ctx     context.Context
	all     bool
	tenants []string
	locked  map[string]error // tenants whose keys are not here: nothing of theirs is looked at
	pace    func(ctx context.Context, bytes int64) error
	report  func(done, total uint64) // nil: nobody wants to know
	total   uint64                   // bytes that are expected in all
	told    int                      // events so far
	lost    map[string]*loss         // by key
	// forwards are the keys of damaged forwards, by the old pack.
	forwards map[pack.ID][]string
	out      api.Scrub
}

// loss is what an object or file should have and has not.
type loss struct {
	volumes map[string][]api.Range
	why     string
}

// tenantNames returns the names of the domains that this host knows of.
func (s *Scrubber) tenantNames() ([]string, error) {
	names, err := s.disks.DB.Tenants()
	for _, d := range s.disks.All() {
		st := d.State()
		names = append(names, disk.DomainName(&st))
	}
	names = append(names, "default")
	slices.Sort(names)
	return slices.Compact(names), err
}

// checked counts what was read and found whole or not, and waits as the rate demands.
func (r *run) checked(blocks int, bytes int64) error {
	r.out.Blocks += uint64(blocks)
	r.out.Bytes += uint64(bytes)
	r.Stats.Blocks.Add(uint64(blocks))
	r.Stats.Bytes.Add(uint64(bytes))
	if r.report != nil {
		r.total = max(r.total, r.out.Bytes)
		r.report(r.out.Bytes, r.total)
	}
	return r.pace(r.ctx, bytes)
}

// damaged counts and reports damage. key is the object or the file.
func (r *run) damaged(n int, kind, key string, err error) {
	r.out.Damaged += n
	r.Stats.Damaged.Add(uint64(n))
	r.tell(kind, "", "scrub found damage in %s: %v", key, err)
}

// repaired counts and reports a repair.
func (r *run) repaired(n int, kind, key, how string) {
	r.out.Repaired += n
	r.Stats.Repaired.Add(uint64(n))
	r.tell(kind, "", "scrub repaired %s: %s", key, how)
}

// lose notes that an object or file lost what a volume needs; vol "" if nothing is known
// to need it.
func (r *run) lose(key, vol string, ranges []api.Range, why string) {
	l := r.lost[key]
	if l == nil {
		l = &loss{volumes: map[string][]api.Range{}, why: why}
		r.lost[key] = l
	}
	if vol != "" {
		l.volumes[vol] = append(l.volumes[vol], ranges...)
	}
}

// maxTold bounds the events of one run: a disk that is full of damage must not push out
// all others.
const maxTold = 100

func (r *run) tell(kind, vol, format string, args ...any) {
	if r.told++; r.told <= maxTold {
		r.disks.Event(kind, vol, format, args...)
	}
}

// finish puts together what is lost: one entry for all volumes of a key that lost the
// same ranges.
func (r *run) finish() {
	for _, key := range slices.Sorted(maps.Keys(r.lost)) {
		l := r.lost[key]
		if len(l.volumes) == 0 {
			r.out.Lost = append(r.out.Lost, api.Lost{Key: key, Volumes: []string{}, Ranges: []api.Range{}})
			r.disks.Event(event.Store, "", "scrub cannot repair %s: %s", key, l.why)
		}
		first := len(r.out.Lost)
		for _, vol := range slices.Sorted(maps.Keys(l.volumes)) {
			ranges := join(l.volumes[vol])
			r.disks.Event(event.Volume, vol, "it has lost %s: %s (%s)", text(ranges), l.why, key)
			same := slices.IndexFunc(r.out.Lost[first:], func(x api.Lost) bool { return slices.Equal(x.Ranges, ranges) })
			if same < 0 {
				r.out.Lost = append(r.out.Lost, api.Lost{Key: key, Volumes: []string{vol}, Ranges: ranges})
			} else {
				x := &r.out.Lost[first+same]
				x.Volumes = append(x.Volumes, vol)
			}
		}
		r.Stats.Lost.Add(1)
	}
	if r.out.Damaged > 0 {
		r.disks.Event(event.Host, "", "scrub: %d damaged, %d of them repaired", r.out.Damaged, r.out.Repaired)
	}
}

// text describes ranges for people.
func text(ranges []api.Range) string {
	if len(ranges) == 0 {
		return "what an object says"
	}
	s := fmt.Sprintf("%d bytes at %d", ranges[0].Length, ranges[0].Offset)
	if n := len(ranges); n > 1 {
		s += fmt.Sprintf(" and %d more ranges", n-1)
	}
	return s
}

// join sorts ranges and joins those that touch.
func join(list []api.Range) []api.Range {
	slices.SortFunc(list, func(a, b api.Range) int { return cmp.Compare(a.Offset, b.Offset) })
	out := []api.Range{}
	for _, x := range list {
		if n := len(out); n > 0 && out[n-1].Offset+out[n-1].Length >= x.Offset {
			out[n-1].Length = max(out[n-1].Offset+out[n-1].Length, x.Offset+x.Length) - out[n-1].Offset
		} else {
			out = append(out, x)
		}
	}
	return out
}

// isDamage tells whether an error means that bytes are not there or not right, rather than
// that they could not be asked for.
func isDamage(err error) bool {
	k := errs.KindOf(err)
	return err != nil && (k == errs.Corrupt || k == errs.NotFound)
}

// lockOut takes those out of the tenants whose keys are not here. What they have is neither
// damaged nor whole.
func (r *run) lockOut() {
	r.tenants = slices.DeleteFunc(r.tenants, func(t string) bool {
		err := r.disks.Tenants.Ready(r.ctx, t)
		if _, known := r.locked[t]; err != nil && !known && r.ctx.Err() == nil {
			r.locked[t] = err
			r.out.Locked = append(r.out.Locked, err.Error())
			r.tell(event.Host, "", "scrub passes over a tenant: %v", err)
		}
		return err != nil
	})
}

// hasher returns the hasher of a tenant.
func (r *run) hasher(tenant string) *pack.Hasher { return r.disks.Tenant(tenant).Hasher }

// codec reads and writes what a tenant has in a domain.
func (r *run) codec(tenant string, domain uint32) (pack.Codec, error) {
	h, err := r.hasher(tenant).In(domain)
	if err != nil {
		return pack.Codec{}, err
	}
	return h.Codec(), nil
}

// someones reports whether bytes have the hash in some tenant. What a tenant had before it
// was sealed may be on this host still.
func (r *run) someones(h *pack.Hash, raw []byte) bool {
	return slices.ContainsFunc(r.tenants, func(t string) bool {
		return r.hasher(t).Matches(*h, raw) || pack.NewHasher(t).Sum(raw) == *h
	})
}

// passEvery is the time from the beginning of one pass in the background to that of the
// next.
const passEvery = 24 * time.Hour
