package host

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/inspect"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
)

// dfDisk is a disk with everything it has: blocks, and sectors of the log.
type dfDisk struct {
	volume, snapshot string // names
	size             uint64
	has              map[dfData]int // how often
}

type dfData struct {
	hash   pack.Hash // of a block; zero for the log
	sector uint64    // of the log
	raw    uint64
	stored uint64
}

// everything reads all disks of the host, with no index.
func everything(t *testing.T, h *Host) (out []dfDisk) {
	t.Helper()
	for _, d := range h.disks.All() {
		st := d.State()
		v, done, err := d.OpenForRead()
		if err != nil {
			t.Fatal(err)
		}
		c, err := v.Cut()
		if err != nil {
			t.Fatal(err)
		}
		x := dfDisk{disk.Display(st.Tenant, st.Name, ""), st.Snapshot, st.Size, map[dfData]int{}}
		if err := c.Base().Walk(ctx, 0, c.Base().Blocks(), func(_ uint64, r pack.Ref) error {
			x.has[dfData{hash: r.Hash, raw: uint64(st.BlockSize), stored: uint64(r.Len)}]++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		c.Places(func(place, n uint64) {
			for i := range n / 512 {
				x.has[dfData{sector: place + 512*i, raw: 512, stored: 512}]++
			}
		})
		c.Release()
		done()
		out = append(out, x)
	}
	return out
}

// space counts from all disks what those that are mine use, and with whom they share it.
// Data that only whole has is exclusive.
func space(all []dfDisk, mine, whole func(d *dfDisk) bool) (s api.Space, with []api.SharedWith) {
	type use struct {
		mine   bool
		others []string
		whole  string
		shared bool
	}
	uses := map[dfData]*use{}
	var mapped, unique uint64
	for i := range all {
		d := &all[i]
		if mine(d) && d.snapshot == "" {
			s.Logical += d.size
		}
		for k, n := range d.has {
			u := uses[k]
			if u == nil {
				u = &use{}
				uses[k] = u
			}
			if mine(d) {
				u.mine = true
				if k.hash != (pack.Hash{}) {
					mapped += uint64(n) * k.raw
				}
			} else if !slices.Contains(u.others, d.volume) {
				u.others = append(u.others, d.volume)
			}
			if u.whole == "" {
				u.whole = d.volume
			}
			u.shared = u.shared || u.whole != d.volume
		}
	}
	shares := map[string]uint64{}
	for k, u := range uses {
		if !u.mine {
			continue
		}
		alone := len(u.others) == 0 && (whole == nil || !u.shared)
		if alone {
			s.Exclusive += k.raw
		} else {
			s.Shared += k.raw
		}
		if len(u.others) == 0 {
			s.FreedIfRemoved += k.stored
		}
		for _, o := range u.others {
			shares[o] += k.raw
		}
		if k.hash == (pack.Hash{}) {
			s.Dirty += int64(k.raw)
		} else {
			s.Stored += k.stored
			unique += k.raw
		}
	}
	s.DedupRatio, s.CompressionRatio = 1, 1
	if unique > 0 {
		s.DedupRatio, s.CompressionRatio = float64(mapped)/float64(unique), float64(unique)/float64(s.Stored)
	}
	with = []api.SharedWith{}
	for n, b := range shares {
		with = append(with, api.SharedWith{Name: n, Bytes: b})
	}
	slices.SortFunc(with, func(a, b api.SharedWith) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	return s, with
}

// fullUsage is Usage, counted from everything.
func fullUsage(t *testing.T, h *Host, name string) (out api.Usage) {
	all := everything(t, h)
	slices.SortFunc(all, func(a, b dfDisk) int {
		return cmp.Or(cmp.Compare(a.volume, b.volume), cmp.Compare(a.snapshot, b.snapshot))
	})
	snapshots := func(v string) []api.SnapshotUsage {
		list := []api.SnapshotUsage{}
		for i := range all {
			if d := &all[i]; d.volume == v && d.snapshot != "" {
				s, _ := space(all, func(x *dfDisk) bool { return x == d }, nil)
				s.Logical = d.size
				list = append(list, api.SnapshotUsage{Name: d.snapshot, Space: s})
			}
		}
		return list
	}
	if name == "" {
		every := func(*dfDisk) bool { return true }
		out.Space, _ = space(all, every, every)
		out.Volumes = []api.VolumeUsage{}
		for i := range all {
			if v := all[i].volume; all[i].snapshot == "" {
				s, _ := space(all, func(x *dfDisk) bool { return x.volume == v }, nil)
				out.Volumes = append(out.Volumes, api.VolumeUsage{Name: v, Space: s, Snapshots: snapshots(v)})
			}
		}
		return out
	}
	n := must[disk.Name](t)(disk.ParseName(name, true))
	out.Space, out.SharedWith = space(all, func(x *dfDisk) bool { return x.volume == n.Volume && (n.Snapshot == "" || x.snapshot == n.Snapshot) }, nil)
	if n.Snapshot == "" {
		out.Snapshots = snapshots(n.Volume)
		return out
	}
	for _, d := range all {
		if d.volume == n.Volume && d.snapshot == n.Snapshot {
			out.Logical = d.size
		}
	}
	return out
}

// TestUsageEqualsFullCount: after every step of random histories, what df says is exactly
// what a count of everything says, and what an inspector says that never counted before.
func TestUsageEqualsFullCount(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 9))
		h := small(t, objstore.NewMem(objstore.Clock{}), vfs.NewMem())
		var volumes []string
		snapshots := map[string][]string{}
		pick := func() string { return volumes[r.IntN(len(volumes))] }
		for step := range 60 {
			name := fmt.Sprintf("v%d", step)
			did := ""
			switch k := r.IntN(20); {
			case len(volumes) == 0 || k == 0 && len(volumes) < 6:
				must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: mib, BlockSize: 4096 << (2 * r.IntN(3))}))
				volumes = append(volumes, name)
				did = "create"
			case k < 3 && len(volumes) < 6:
				src := pick()
				must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: src, Name: name}))
				volumes = append(volumes, name)
				did = "fork " + src
			case k < 5:
				v := pick()
				must[api.Snapshot](t)(h.Snapshot(ctx, v, fmt.Sprintf("s%d", step), ""))
				snapshots[v] = append(snapshots[v], fmt.Sprintf("s%d", step))
				did = "snapshot " + v
			case k == 5 && len(volumes) > 1:
				v := pick()
				if err := h.Remove(ctx, v, false); err != nil {
					t.Fatal(err)
				}
				volumes = slices.DeleteFunc(volumes, func(x string) bool { return x == v })
				delete(snapshots, v)
				did = "rm " + v
			case k < 8:
				v := pick()
				if s := snapshots[v]; len(s) > 0 && k == 6 {
					if err := h.Remove(ctx, v+"@"+s[0], false); err != nil {
						t.Fatal(err)
					}
					snapshots[v] = s[1:]
					did = "rm snapshot of " + v
				} else if len(s) > 0 {
					must[api.Volume](t)(h.Rollback(ctx, v, s[r.IntN(len(s))], false))
					did = "rollback " + v
				}
			case k < 11:
				v := pick()
				must[api.Flush](t)(h.Flush(ctx, v))
				did = "flush " + v
			case k == 11:
				v := pick()
				d := must[*disk.Disk](t)(h.disks.Local(v, false))
				must[api.Volume](t)(h.Resize(ctx, v, d.State().Size+4*mib))
				did = "resize " + v
			case k == 12:
				v := pick()
				must[api.Volume](t)(h.Sleep(ctx, v, r.IntN(2) == 0, false))
				did = "sleep " + v
			case k == 13:
				v := pick()
				must[api.Volume](t)(h.Wake(ctx, v, false, ""))
				did = "wake " + v
			case k == 14:
				v := pick()
				if err := vol(t, h, v).Zero(4096*r.Uint64N(128), 4096*(1+r.Uint64N(100))); err != nil {
					t.Fatal(err)
				}
				did = "zero " + v
			default:
				v := pick() // few contents, so that volumes have blocks in common
				fill(t, h, v, r.Uint64N(6), 4096*r.Uint64N(128), 4096*(1+r.Uint64N(40)))
				did = "write " + v
			}
			names := []string{"", pick()}
			for _, s := range snapshots[names[1]] {
				names = append(names, names[1]+"@"+s)
			}
			for _, n := range names {
				got := must[api.Usage](t)(h.Usage(ctx, n))
				if want := fullUsage(t, h, n); !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, step %d, after %s: df %q\n says %+v\n want %+v", seed, step, did, n, got, want)
				}
				if want := must[api.Usage](t)(inspect.New(h.disks, h.catalog).Usage(ctx, n)); !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, step %d, after %s: df %q\n says %+v\n another inspector %+v", seed, step, did, n, got, want)
				}
			}
		}
		_ = h.Close(ctx)
	}
}

// TestUsageMeanwhile: several counts at once, while volumes are written, forked and
// removed, disturb nothing.
func TestUsageMeanwhile(t *testing.T) {
	h := small(t, objstore.NewMem(objstore.Clock{}), vfs.NewMem())
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	fill(t, h, "v", 1, 0, mib)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	var over atomic.Bool
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for !over.Load() {
				u, err := h.Usage(ctx, []string{"", "v", "f5"}[i])
				if err != nil && errs.KindOf(err) != errs.NotFound {
					t.Errorf("df: %v", err)
				} else if i == 1 && u.Stored == 0 {
					t.Errorf("df v: %+v", u)
				}
			}
		})
	}
	for i := range 40 {
		name := fmt.Sprintf("f%d", i%8)
		must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: name}))
		fill(t, h, name, uint64(i), 64*kib, 64*kib)
		must[api.Flush](t)(h.Flush(ctx, name))
		must[api.Snapshot](t)(h.Snapshot(ctx, name, "s", ""))
		fill(t, h, "v", uint64(i), 4096*uint64(i), 4096)
		if i%3 == 0 {
			must[api.Flush](t)(h.Flush(ctx, "v"))
		}
		if err := h.Remove(ctx, name, false); err != nil {
			t.Fatal(err)
		}
	}
	over.Store(true)
	wg.Wait()
	if got, want := must[api.Usage](t)(h.Usage(ctx, "")), fullUsage(t, h, ""); !reflect.DeepEqual(got, want) {
		t.Fatalf("afterwards df says %+v, want %+v", got, want)
	}
}

// TestUsageReadsWhatChanged: of a large map, df reads only the pages that have changed, and
// of a fork none.
func TestUsageReadsWhatChanged(t *testing.T) {
	h := small(t, objstore.NewMem(objstore.Clock{}), vfs.NewMem())
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: 32 * mib, BlockSize: 4096}))
	fill(t, h, "v", 1, 0, 20*mib) // 5120 blocks, in 80 leaves
	pages := func(what string, most uint64) {
		t.Helper()
		before := h.disks.Pages.Stats()
		must[api.Usage](t)(h.Usage(ctx, "v"))
		s := h.disks.Pages.Stats()
		if n := s.Hits + s.Misses - before.Hits - before.Misses; n > most {
			t.Errorf("%s: df looked at %d pages, at most %d have changed", what, n, most)
		}
	}
	must[api.Flush](t)(h.Flush(ctx, "v"))
	pages("all of it", 80+2+1)
	fill(t, h, "v", 2, 7*mib, 4096)
	must[api.Flush](t)(h.Flush(ctx, "v"))
	pages("a changed block", 3)
	pages("nothing", 0)
	must[[]api.Fork](t)(h.Fork(ctx, api.ForkRequest{Source: "v", Name: "f"}))
	must[api.Snapshot](t)(h.Snapshot(ctx, "v", "s", ""))
	pages("a fork and a snapshot", 0)
	if err := h.Remove(ctx, "v", false); err != nil {
		t.Fatal(err)
	}
	must[api.Usage](t)(h.Usage(ctx, "f"))
}

// TestUsageOfUnknown: a name that this host does not have is an error that says so.
func TestUsageOfUnknown(t *testing.T) {
	h := small(t, objstore.NewMem(objstore.Clock{}), vfs.NewMem())
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "v", Size: mib}))
	for _, n := range []string{"x", "v@x"} {
		_, err := h.Usage(ctx, n)
		wantKind(t, err, errs.NotFound)
	}
}
