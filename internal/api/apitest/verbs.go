package apitest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

// change calls fn for the named volume and returns what became of it.
func (b *Backend) change(method, name string, fn func(v *volume) error, args ...any) (api.Volume, error) {
	err := b.enter(method, append([]any{name}, args...)...)
	defer b.mu.Unlock()
	if err != nil {
		return api.Volume{}, err
	}
	v, err := b.find(name)
	if err == nil {
		err = fn(v)
	}
	if err != nil {
		return api.Volume{}, err
	}
	return v.Volume, nil
}

func busy(v *volume, force bool) error {
	if v.Exports > 0 && !force {
		return errs.New(errs.Busy, "volume %s has %d open connections: close them, or use --force", v.Name, v.Exports)
	}
	return nil
}

// List implements api.Backend.
func (b *Backend) List(_ context.Context, all bool) ([]api.Volume, error) {
	err := b.enter("List", all)
	defer b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var list []api.Volume
	for _, name := range slices.Sorted(maps.Keys(b.volumes)) {
		if !strings.Contains(name, "@") {
			list = append(list, b.volumes[name].Volume)
		}
	}
	return list, nil
}

// Show implements api.Backend.
func (b *Backend) Show(_ context.Context, name string) (api.Volume, error) {
	return b.change("Show", name, func(*volume) error { return nil })
}

// Remove implements api.Backend.
func (b *Backend) Remove(_ context.Context, name string, force bool) error {
	_, err := b.change("Remove", name, func(v *volume) error {
		if err := busy(v, force); err != nil {
			return err
		}
		delete(b.volumes, v.Name)
		if b.removed == nil {
			b.removed = map[string]*volume{}
		}
		if b.removed[v.Name] = v; strings.Contains(v.Name, "@") {
			delete(b.removed, v.Name)
		}
		return nil
	}, force)
	return err
}

// Restore implements api.Backend.
func (b *Backend) Restore(_ context.Context, name, as string) (api.Volume, error) {
	err := b.enter("Restore", name, as)
	defer b.mu.Unlock()
	v, to := b.removed[name], cmp.Or(as, name)
	switch {
	case err != nil:
		return api.Volume{}, err
	case v == nil:
		return api.Volume{}, errs.New(errs.NotFound, "the store has nothing of a volume %s", name)
	case b.volumes[to] != nil:
		return api.Volume{}, errs.New(errs.Exists, "there is a volume %s already: use --as", to)
	}
	c := *v
	c.Name = to
	b.volumes[to] = &c
	return c.Volume, nil
}

// Removed implements api.Backend. The collector has flagged all of them.
func (b *Backend) Removed(context.Context) ([]api.Removed, error) {
	err := b.enter("Removed")
	defer b.mu.Unlock()
	var list []api.Removed
	until := Epoch.Add(24 * time.Hour)
	for _, name := range slices.Sorted(maps.Keys(b.removed)) {
		v := b.removed[name]
		list = append(list, api.Removed{Name: name, ID: v.ID, Size: v.Size, BlockSize: v.BlockSize, Durability: v.Durability, CreatedAt: Epoch, Labels: map[string]string{}, RemovedAt: Epoch, Until: until})
	}
	return list, err
}

// Rename implements api.Backend.
func (b *Backend) Rename(_ context.Context, name, to string) (api.Volume, error) {
	return b.change("Rename", name, func(v *volume) error {
		if b.volumes[to] != nil {
			return errs.New(errs.Exists, "there is a volume %s already", to)
		}
		delete(b.volumes, v.Name)
		v.Name = to
		b.volumes[to] = v
		return nil
	}, to)
}

// Resize implements api.Backend.
func (b *Backend) Resize(_ context.Context, name string, to uint64) (api.Volume, error) {
	return b.change("Resize", name, func(v *volume) error {
		if err := size.Check(to); err != nil {
			return err
		}
		if to < v.Size {
			return errs.New(errs.Invalid, "volume %s has %s: volumes do not shrink", name, size.Human(v.Size))
		}
		v.Size = to
		return nil
	}, to)
}

// Set implements api.Backend.
func (b *Backend) Set(_ context.Context, name string, s api.Settings) (api.Volume, error) {
	return b.change("Set", name, func(v *volume) error {
		for key, value := range s {
			if key == "keep" {
				v.Keep = value
				continue
			}
			label, ok := strings.CutPrefix(key, "label.")
			if !ok {
				return errs.New(errs.Unsupported, "this release of glide does not set %s yet", key)
			}
			v.Labels[label] = value
		}
		return nil
	}, s)
}

// Fork implements api.Backend.
func (b *Backend) Fork(_ context.Context, r api.ForkRequest) ([]api.Fork, error) {
	err := b.enter("Fork", r.Source, r.Name, r.Count, r.At, r.Lazy)
	defer b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	src, err := b.find(r.Source)
	if err != nil {
		return nil, err
	}
	names := []string{r.Name}
	if r.Count > 0 {
		names = nil
		for i := range r.Count {
			names = append(names, fmt.Sprintf("%s-%d", r.Name, i+1))
		}
	}
	var forks []api.Fork
	for _, name := range names {
		v, err := b.add(name, src.Size)
		if err != nil {
			return forks, err
		}
		v.pages, v.Parent = maps.Clone(src.pages), r.Source
		forks = append(forks, api.Fork{Name: name, ID: v.ID, Parent: r.Source, Generation: v.Generation, ElapsedMs: 0.25})
	}
	return forks, nil
}

// Snapshot implements api.Backend.
func (b *Backend) Snapshot(_ context.Context, name, snapshot, expires string) (api.Snapshot, error) {
	v, err := b.change("Snapshot", name, func(v *volume) error {
		full := v.Name + "@" + snapshot
		if b.volumes[full] != nil {
			return errs.New(errs.Exists, "there is a snapshot %s already", full)
		}
		c := *v
		c.pages, c.Name = maps.Clone(v.pages), full
		b.volumes[full] = &c
		v.order = append(v.order, snapshot)
		return nil
	}, snapshot, expires)
	s := api.Snapshot{Name: snapshot, Volume: v.Name, Size: v.Size, CreatedAt: Epoch}
	if expires != "" {
		s.ExpiresAt = Epoch.Add(30 * 24 * time.Hour)
	}
	return s, err
}

// Snapshots implements api.Backend.
func (b *Backend) Snapshots(_ context.Context, name string) ([]api.Snapshot, error) {
	var list []api.Snapshot
	_, err := b.change("Snapshots", name, func(v *volume) error {
		for _, s := range v.order {
			if b.volumes[v.Name+"@"+s] != nil {
				list = append(list, api.Snapshot{Name: s, Volume: v.Name, Size: v.Size, CreatedAt: Epoch})
			}
		}
		return nil
	})
	return list, err
}

// Rollback implements api.Backend.
func (b *Backend) Rollback(_ context.Context, name, to string, force bool) (api.Volume, error) {
	return b.change("Rollback", name, func(v *volume) error {
		s, err := b.find(v.Name + "@" + to)
		if err == nil {
			err = busy(v, force)
		}
		if err == nil {
			v.pages = maps.Clone(s.pages)
		}
		return err
	}, to, force)
}

// work takes a while, and tells how far it is, if somebody wants to know.
func work(ctx context.Context) {
	if report := api.Progress(ctx); report != nil {
		for done := range uint64(3) {
			report(done<<20, 3<<20)
			time.Sleep(110 * time.Millisecond)
		}
	}
}

// Flush implements api.Backend.
func (b *Backend) Flush(ctx context.Context, name string) (api.Flush, error) {
	work(ctx)
	v, err := b.change("Flush", name, func(v *volume) error {
		v.Generation, v.Epoch = "1.2", 1
		return nil
	})
	return api.Flush{Generation: v.Generation, BlocksFolded: 3, BlocksNew: 2, BytesUploaded: 200_000, Requests: api.Requests{Put: 2}, ElapsedMs: 12.5}, err
}

// Sleep implements api.Backend.
func (b *Backend) Sleep(ctx context.Context, name string, portable, force bool) (api.Volume, error) {
	work(ctx)
	return b.change("Sleep", name, func(v *volume) error {
		if err := busy(v, force); err != nil {
			return err
		}
		v.State = "asleep"
		return nil
	}, portable, force)
}

// Wake implements api.Backend. A volume whose name begins with "lost" is one
// whose owner does not answer.
func (b *Backend) Wake(ctx context.Context, name string, force bool, expect string) (api.Volume, error) {
	work(ctx)
	return b.change("Wake", name, func(v *volume) error {
		if strings.HasPrefix(name, "lost") && !force {
			return errs.New(errs.WouldLose, "the owner of %s does not answer: writes since 12:00 would be lost; use --force to do without them", name)
		}
		v.State = "active"
		return nil
	}, force, expect)
}

// Log implements api.Backend.
func (b *Backend) Log(_ context.Context, name, before string, _ uint64) ([]api.Commit, error) {
	var list []api.Commit
	_, err := b.change("Log", name, func(v *volume) error {
		if v.Generation != "" && before == "" {
			list = append(list, api.Commit{Generation: v.Generation, Time: Epoch, Kind: "commit", Cause: "flush", Owner: v.Owner, Size: v.Size, Bytes: 700})
		}
		return nil
	})
	return list, err
}

// Diff implements api.Backend.
func (b *Backend) Diff(_ context.Context, left, right string) (api.Diff, error) {
	err := b.enter("Diff", left, right)
	defer b.mu.Unlock()
	if err != nil {
		return api.Diff{}, err
	}
	l, err := b.find(left)
	if err != nil {
		return api.Diff{}, err
	}
	r, err := b.find(right)
	if err != nil {
		return api.Diff{}, err
	}
	d := api.Diff{A: left, B: right}
	all := maps.Clone(l.pages)
	maps.Copy(all, r.pages)
	for _, i := range slices.Sorted(maps.Keys(all)) {
		if bytes.Equal(l.pages[i], r.pages[i]) {
			d.SharedBytes += page
			continue
		}
		d.DifferentBytes += page
		d.Ranges = append(d.Ranges, api.Range{Offset: i * page, Length: page})
	}
	return d, nil
}

// Cost implements api.Backend.
func (b *Backend) Cost(_ context.Context, name string) (api.Cost, error) {
	err := b.enter("Cost", name)
	defer b.mu.Unlock()
	if err == nil && name != "" {
		_, err = b.find(name)
	}
	money := 1.25
	return api.Cost{Since: Epoch, Causes: b.Causes(), Money: &money}, err
}

// Causes implements the part of metrics.Backend that api.Backend has not.
func (*Backend) Causes() map[string]api.CauseCost {
	return map[string]api.CauseCost{
		"flush": {Requests: api.Requests{Put: 3, Get: 1}, BytesUp: 1 << 20}, "read": {Requests: api.Requests{Get: 40}, BytesDown: 5 << 20},
	}
}

// Usage implements api.Backend.
func (b *Backend) Usage(_ context.Context, name string) (api.Usage, error) {
	err := b.enter("Usage", name)
	defer b.mu.Unlock()
	if err == nil && name != "" {
		name, _, _ = strings.Cut(name, "@")
		_, err = b.find(name)
	}
	u := api.Space{Logical: 1 << 30, Dirty: 4096, Exclusive: 1 << 20, Shared: 3 << 20, FreedIfRemoved: 1 << 20, Stored: 2 << 20, DedupRatio: 4, CompressionRatio: 2}
	out := api.Usage{Space: u}
	if name == "" {
		out.Volumes = []api.VolumeUsage{{Name: "vm1", Space: u, Snapshots: []api.SnapshotUsage{{Name: "monday", Space: u}}}}
	} else {
		out.Snapshots, out.SharedWith = []api.SnapshotUsage{}, []api.SharedWith{{Name: "golden", Bytes: 3 << 20}}
	}
	return out, err
}

// Verify implements api.Backend. A volume whose name begins with "bad" is damaged.
func (b *Backend) Verify(ctx context.Context, name string, cold bool) (api.Verify, error) {
	work(ctx)
	out := api.Verify{Name: name, Cold: cold}
	_, err := b.change("Verify", name, func(v *volume) error {
		out.Blocks, out.Bytes = uint64(len(v.pages)), page*uint64(len(v.pages))
		if strings.HasPrefix(name, "bad") {
			out.Damaged = []string{"packs/00/00: slot 3: its bytes do not match their hash"}
		}
		return nil
	}, cold)
	return out, err
}

// Hydrate implements api.Backend.
func (b *Backend) Hydrate(ctx context.Context, name string, rate uint64) (api.Hydrate, error) {
	work(ctx)
	out := api.Hydrate{Name: name}
	_, err := b.change("Hydrate", name, func(v *volume) error {
		out.Blocks, out.Fetched = uint64(len(v.pages)), uint64(len(v.pages))
		return nil
	}, rate)
	return out, err
}

// URI implements api.Backend.
func (b *Backend) URI(_ context.Context, name string) (string, error) {
	v, err := b.change("URI", name, func(*volume) error { return nil })
	return "nbd+unix:///" + v.Name + "?socket=/data/nbd.sock", err
}

// Stats implements api.Backend.
func (b *Backend) Stats(_ context.Context, name string) (api.Stats, error) {
	err := b.enter("Stats", name)
	defer b.mu.Unlock()
	if err == nil && name != "" {
		_, err = b.find(name)
	}
	s := api.Stats{Requests: api.Requests{Put: 2, Get: 3}, BytesUp: 1000, BytesDown: 2000}
	s.Cache.Hits, s.WAL.Syncs = 7, 9
	s.Latency = map[string]api.Latency{"read": {Count: 10, P50: 11, P99: 50, P999: 80, Max: 100.5}}
	return s, err
}

// Doctor implements api.Backend.
func (b *Backend) Doctor(context.Context) ([]api.Check, error) {
	err := b.enter("Doctor")
	defer b.mu.Unlock()
	return []api.Check{{Name: "store", OK: true, Detail: "mem:// answers"}}, err
}

// Release implements api.Backend.
func (b *Backend) Release(_ context.Context, name string, r api.ReleaseRequest) (api.Volume, error) {
	return b.change("Release", name, func(v *volume) error {
		if err := busy(v, false); err != nil {
			return err
		}
		if !r.FlushOnly {
			v.State, v.Owner = "remote", r.Host
		}
		return nil
	}, r.Host, r.Epoch, r.FlushOnly)
}

// Blocks implements api.Backend. It has every block, full of its number.
func (b *Backend) Blocks(_ context.Context, r api.BlocksRequest, send func(i int, raw []byte) error) error {
	err := b.enter("Blocks", r.Tenant, r.BlockSize, len(r.Hashes))
	b.mu.Unlock()
	for i := range r.Hashes {
		if err == nil {
			err = send(i, bytes.Repeat([]byte{byte(i)}, int(r.BlockSize)))
		}
	}
	return err
}

// Attach implements api.Backend. Every device is /dev/nbd0, unless it is said.
func (b *Backend) Attach(_ context.Context, name string, r api.AttachRequest) (api.Attachment, error) {
	a := api.Attachment{Device: cmp.Or(r.Device, "/dev/nbd0"), TimeoutMs: cmp.Or(r.TimeoutMs, 30000), DeadTimeoutMs: cmp.Or(r.DeadTimeoutMs, 600000)}
	_, err := b.change("Attach", name, func(v *volume) error {
		if v.Device != "" {
			return errs.New(errs.Exists, "volume %s is attached already, as %s", name, v.Device)
		}
		v.Device, v.Exports = a.Device, v.Exports+1
		a.Name, a.Size = v.Name, v.Size
		return nil
	}, r.Device, r.TimeoutMs, r.DeadTimeoutMs)
	return a, err
}

// Detach implements api.Backend.
func (b *Backend) Detach(_ context.Context, r api.DetachRequest) (api.Attachment, error) {
	err := b.enter("Detach", r.Name, r.Device, r.Force)
	defer b.mu.Unlock()
	if err != nil {
		return api.Attachment{}, err
	}
	for _, v := range b.volumes {
		if v.Device != "" && (v.Name == r.Name || v.Device == r.Device) {
			a := api.Attachment{Name: v.Name, Device: v.Device, Size: v.Size}
			v.Device, v.Exports = "", v.Exports-1
			return a, nil
		}
	}
	return api.Attachment{}, errs.New(errs.NotFound, "%s%s is not attached", r.Name, r.Device)
}

// Dump implements api.Backend. It knows the keys "good" and "bad".
func (b *Backend) Dump(_ context.Context, key string, w io.Writer) error {
	err := b.enter("Dump", key)
	defer b.mu.Unlock()
	switch {
	case err != nil:
		return err
	case strings.HasPrefix(key, "packs/good"):
		_, err = io.WriteString(w, "pack: 1 slot\n")
		return err
	case strings.HasPrefix(key, "packs/bad"):
		_, _ = io.WriteString(w, "pack: 1 slot\n")
		return errs.New(errs.Corrupt, "slot 0: its checksum is wrong")
	}
	return errs.New(errs.NotFound, "no object %s in mem://", key)
}

// Hosts implements api.Backend.
func (b *Backend) Hosts(context.Context) ([]api.StoreHost, error) {
	err := b.enter("Hosts")
	defer b.mu.Unlock()
	return []api.StoreHost{
		{ID: "host-1", Addresses: []string{"unix:/data/api.sock"}, Self: true, Volumes: len(b.volumes), LastCommit: Epoch},
		{ID: "host-2", Addresses: []string{}, Kept: 1, Pins: 2},
	}, err
}

// ForgetHost implements api.Backend.
func (b *Backend) ForgetHost(_ context.Context, id string, force bool) (api.Forgotten, error) {
	err := b.enter("ForgetHost", id, force)
	defer b.mu.Unlock()
	if err == nil && id != "host-2" {
		err = errs.New(errs.NotFound, "the store knows of no host %s", id)
	}
	return api.Forgotten{Host: id, Pins: 2, Volumes: []string{"vm1"}, Left: []string{}}, err
}

// Collect implements api.Backend. Two objects are garbage, and gone if the grace is 0.
func (b *Backend) Collect(_ context.Context, r api.CollectRequest) (api.Collection, error) {
	err := b.enter("Collect", r.Grace, r.DryRun, r.Forget, r.Force)
	defer b.mu.Unlock()
	c := api.Collection{Round: 3, LiveObjects: 10, LiveBytes: 10 << 20, FlaggedObjects: 2, FlaggedBytes: 2 << 20, ForeignObjects: 1, Skipped: []api.Skipped{}, ElapsedMs: 12.5}
	if c.ForgottenNames = 1; !r.Forget {
		c.ForgottenNames = 0
	}
	switch {
	case r.Forget && !r.Force && !r.DryRun && err == nil:
		err = errs.New(errs.WouldLose, "1 name would be forgotten: --force does it")
	case r.DryRun:
		c.Round = 0
	case r.Grace == "0s":
		c.DeletedObjects, c.DeletedBytes = 2, 2<<20
	}
	return c, err
}

// Scrub implements api.Backend. A scrub of the store alone finds damage.
func (b *Backend) Scrub(ctx context.Context, r api.ScrubRequest) (api.Scrub, error) {
	work(ctx)
	err := b.enter("Scrub", r.StoreOnly, r.LocalOnly)
	defer b.mu.Unlock()
	out := api.Scrub{Blocks: 12, Bytes: 12 << 17, Damaged: 1, Repaired: 1, Lost: []api.Lost{}, Locked: []string{}, ElapsedMs: 12.5}
	if r.StoreOnly {
		out.Damaged = 2
		out.Lost = append(out.Lost, api.Lost{Key: "packs/00/00", Volumes: []string{"vm1"}, Ranges: []api.Range{{Offset: 4096, Length: 8192}}})
	}
	return out, err
}

// CollectPlan implements api.Backend.
func (b *Backend) CollectPlan(context.Context) ([]api.Planned, error) {
	err := b.enter("CollectPlan")
	defer b.mu.Unlock()
	return []api.Planned{{Key: "packs/good", Bytes: 1 << 20, FlaggedAt: Epoch, Kind: "pack"}}, err
}

// CollectStatus implements api.Backend.
func (b *Backend) CollectStatus(context.Context) (api.CollectStatus, error) {
	err := b.enter("CollectStatus")
	defer b.mu.Unlock()
	return api.CollectStatus{Round: 3, Stage: "flagged", FlaggedAt: Epoch, UndoUntil: Epoch.Add(24 * time.Hour), Skipped: []api.Skipped{}}, err
}

// Undelete implements api.Backend. Only packs/good is flagged.
func (b *Backend) Undelete(_ context.Context, keys []string) error {
	err := b.enter("Undelete", keys)
	defer b.mu.Unlock()
	for _, k := range keys {
		if err == nil && k != "packs/good" {
			err = errs.New(errs.NotFound, "%q is not flagged", k)
		}
	}
	return err
}

// Events implements api.Backend. There are two.
func (b *Backend) Events(_ context.Context, after uint64, wait time.Duration) ([]api.Event, error) {
	err := b.enter("Events", after, wait)
	defer b.mu.Unlock()
	all := []api.Event{
		{Sequence: 1, Time: Epoch, Kind: "store", Volume: "vm1", Message: "the store does not take commits: it does not answer"},
		{Sequence: 2, Time: Epoch, Kind: "store", Volume: "vm1", Message: "the store takes commits again"},
	}
	return all[min(after, 2):], err
}

// Barrier implements api.Backend.
func (b *Backend) Barrier(_ context.Context, name string, through uint64) (api.Flush, error) {
	err := b.enter("Barrier", name, through)
	defer b.mu.Unlock()
	if err != nil {
		return api.Flush{}, err
	}
	v, err := b.find(name)
	if err != nil {
		return api.Flush{}, err
	}
	return api.Flush{Generation: v.Generation}, nil
}
