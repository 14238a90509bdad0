package reach

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/objstore"
)

// Logs are the commit logs of the volumes of a scope, as one list of the store shows them.
type Logs struct {
	volumes []*log
	epochs  map[EpochID]*epoch
}

// log is the log of one volume, its newest epoch first.
type log struct {
	vol    commitlog.Volume
	epochs []*epoch
}

// epoch is an epoch of a log: its objects by number, and what the mark found of it.
type epoch struct {
	number  uint64
	objects map[uint64]objstore.Info
	first   *commit   // nil: not begun
	names   []EpochID // epochs whose objects its states name
	keep    string    // the rule for old epochs in its newest state
}

// info is what the list has of an object; nothing if it was not listed.
func (e *epoch) info(n uint64) objstore.Info {
	if e == nil {
		return objstore.Info{}
	}
	return e.objects[n]
}

func (e *epoch) has(n uint64) bool { _, ok := e.objects[n]; return ok }

// run is the last number of the unbroken run from the first object.
func (e *epoch) run() (n uint64) {
	for e.has(n + 1) {
		n++
	}
	return n
}

// listLogs lists the logs that are read. Keys that are no commits are not its business.
func listLogs(ctx context.Context, scope *Scope) (*Logs, error) {
	l := &Logs{epochs: map[EpochID]*epoch{}}
	for _, prefix := range scope.prefixes() {
		if err := l.list(ctx, scope, prefix); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Logs) list(ctx context.Context, scope *Scope, prefix string) error {
	var last *log
	var e *epoch
	tenant, wanted := "", false // the last one: keys come tenant by tenant
	return objstore.ListAll(ctx, scope.Store, prefix, "", func(in objstore.Info) bool {
		vol, g, err := commitlog.ParseKey(in.Key)
		if err == nil && vol.Tenant != tenant {
			tenant, wanted = vol.Tenant, scope.lists(vol.Tenant)
		}
		if err != nil || !wanted {
			return true
		}
		if last == nil || last.vol != vol {
			last = &log{vol: vol}
			l.volumes = append(l.volumes, last)
			e = nil
		}
		if e == nil || e.number != g.Epoch {
			e = &epoch{number: g.Epoch, objects: map[uint64]objstore.Info{}}
			last.epochs = append(last.epochs, e)
			l.epochs[EpochID{vol.Tenant, vol.Name, g.Epoch}] = e
		}
		e.objects[g.Number] = in
		return true
	})
}

// Past returns the epochs that are to be collected: closed ones whose successor began
// before the given time and that the volume's rule does not keep now, and all closed ones of
// a removed volume; but none that a kept epoch, directly or not, or a pin names.
func (l *Logs) Past(before, now time.Time, pinned map[EpochID]bool) []PastEpoch {
	type entry struct {
		log *log
		e   *epoch
	}
	all := map[EpochID]entry{}
	kept := []EpochID{}
	seen := map[EpochID]bool{}
	keep := func(e EpochID) {
		if !seen[e] {
			seen[e] = true
			kept = append(kept, e)
		}
	}
	for e := range pinned {
		keep(e)
	}
	for _, log := range l.volumes {
		var successor *epoch
		removed, byRule := false, log.keptByRule(now)
		for _, e := range log.epochs {
			id := EpochID{log.vol.Tenant, log.vol.Name, e.number}
			if e.first == nil {
				continue // not begun: a late request, or one that is about to be sealed
			}
			all[id] = entry{log, e}
			if successor == nil && fault.Is("gc-collects-the-tip") {
				removed = true
			} else if successor == nil {
				removed = e.first.removed
				keep(id)
			} else if !removed && (successor.beganAfter(before) || byRule[e]) {
				keep(id)
			}
			successor = e
		}
	}
	for len(kept) > 0 {
		x := all[kept[len(kept)-1]]
		kept = kept[:len(kept)-1]
		if x.e != nil {
			for _, n := range x.e.names {
				if !fault.Is("gc-collects-what-commits-name") {
					keep(n)
				}
			}
		}
	}
	var out []PastEpoch
	for id, x := range all {
		if seen[id] || x.e.first.stub && len(x.e.orphans()) == 0 {
			continue
		}
		f := PastEpoch{EpochID: id, Domain: x.e.first.domain}
		for n, in := range x.e.objects {
			if n > 1 || !x.e.first.stub {
				f.Bytes += in.Size
				f.Objects++
			}
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b PastEpoch) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Volume, b.Volume), cmp.Compare(a.Epoch, b.Epoch))
	})
	return out
}

// orphans are the objects of a collected epoch that are neither its first object nor the
// seal: late requests put them back, or the collector was interrupted.
func (e *epoch) orphans() (n []uint64) {
	for i := range e.objects {
		if i > 1 {
			n = append(n, i)
		}
	}
	if len(n) <= 1 {
		return nil
	}
	return n
}
