package doors

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/auth"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
)

// Scope returns the backend as a principal may see it: his tenant's volumes, under their
// plain names, and nothing that tells of others.
func (d *Doors) Scope(b api.Backend) func(*auth.Principal) api.Backend {
	return func(p *auth.Principal) api.Backend {
		if p.Unlimited() {
			if k, ok := b.(api.TenantKeeper); ok {
				return keyKeeper{keeper{b, d}, k}
			}
			return keeper{b, d}
		}
		return &scoped{b, view{p}}
	}
}

// view translates names between a principal and the host.
type view struct{ p *auth.Principal }

// in returns a name as the host knows it. A name that is not for the principal is answered
// without a look at what there is, so that the answer tells nothing.
func (v view) in(name string) (string, error) {
	n, err := disk.ParseName(name, true)
	if err != nil {
		return "", err
	}
	if v.p.Tenant != "" && !strings.Contains(name, "/") {
		n.Tenant = v.p.Tenant
	}
	if !v.p.Sees(n.Tenant, n.Volume) {
		return "", errs.New(errs.NotFound, "there is no volume %q", name)
	}
	return n.String(), nil
}

// made is in for a volume that is to be made.
func (v view) made(name string) (string, error) {
	full, err := v.in(name)
	if err != nil && errs.KindOf(err) == errs.NotFound {
		return "", errs.New(errs.Denied, "%s may not make a volume %q", v.p.Who, name)
	}
	return full, err
}

// out returns a name as the principal says it. ok is false for one that is not for him.
func (v view) out(name string) (plain string, ok bool) {
	n, err := disk.ParseName(name, true)
	if err != nil || !v.p.Sees(n.Tenant, n.Volume) {
		return "", false
	}
	if v.p.Tenant == "" {
		return name, true
	}
	return disk.Display(disk.DefaultTenant, n.Volume, n.Snapshot), true
}

// say is out where the name is known to be the principal's, or "".
func (v view) say(name string) string {
	plain, _ := v.out(name)
	return plain
}

func (v view) volume(x api.Volume, err error) (api.Volume, error) {
	x.Name, x.Parent = v.say(x.Name), v.say(x.Parent)
	return x, err
}

// scoped is a Backend for one principal. It has every method itself: one that is new is
// scoped, or does not compile.
type scoped struct {
	b api.Backend
	view
}

func (s *scoped) Host(ctx context.Context) (api.Host, error) {
	h, err := s.b.Host(ctx)
	if err != nil {
		return h, err
	}
	list, err := s.List(ctx, false)
	return api.Host{ID: h.ID, Version: h.Version, NBD: []string{}, API: []string{}, Volumes: len(list)}, err
}

func (s *scoped) Create(ctx context.Context, r api.CreateRequest) (out api.Volume, err error) {
	if r.Name, err = s.made(r.Name); err != nil {
		return out, err
	}
	return s.volume(s.b.Create(ctx, r))
}

func (s *scoped) Import(ctx context.Context, name string, size uint64, src api.Source) (out api.Import, err error) {
	if name, err = s.made(name); err != nil {
		return out, err
	}
	out, err = s.b.Import(ctx, name, size, src)
	out.Name = s.say(out.Name)
	return out, err
}

func (s *scoped) Export(ctx context.Context, name string) (api.Exported, error) {
	name, err := s.in(name)
	if err != nil {
		return nil, err
	}
	return s.b.Export(ctx, name)
}

func (s *scoped) List(ctx context.Context, all bool) (out []api.Volume, err error) {
	list, err := s.b.List(ctx, all)
	for _, x := range list {
		if _, ok := s.out(x.Name); ok {
			x, _ = s.volume(x, nil)
			out = append(out, x)
		}
	}
	return out, err
}

func (s *scoped) Show(ctx context.Context, name string) (out api.Volume, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	return s.volume(s.b.Show(ctx, name))
}

func (s *scoped) Remove(ctx context.Context, name string, force bool) error {
	name, err := s.in(name)
	if err != nil {
		return err
	}
	return s.b.Remove(ctx, name, force)
}

func (s *scoped) Rename(ctx context.Context, name, to string) (out api.Volume, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	if to, err = s.made(to); err != nil {
		return out, err
	}
	return s.volume(s.b.Rename(ctx, name, to))
}

func (s *scoped) Resize(ctx context.Context, name string, size uint64) (out api.Volume, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	return s.volume(s.b.Resize(ctx, name, size))
}

func (s *scoped) Set(ctx context.Context, name string, x api.Settings) (out api.Volume, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	return s.volume(s.b.Set(ctx, name, x))
}

func (s *scoped) Fork(ctx context.Context, r api.ForkRequest) (out []api.Fork, err error) {
	if !s.foreign(&r) {
		if r.Source, err = s.in(r.Source); err != nil {
			return nil, err
		}
	}
	for i := range max(r.Count, 1) {
		name := r.Name
		if r.Count > 0 {
			name = fmt.Sprintf("%s-%d", r.Name, i+1)
		}
		if _, err := s.made(name); err != nil {
			return nil, err
		}
	}
	if s.p.Tenant != "" && !strings.Contains(r.Name, "/") {
		r.Name = disk.Display(s.p.Tenant, r.Name, "")
	}
	out, err = s.b.Fork(ctx, r)
	for i := range out {
		out[i].Name, out[i].Parent = s.say(out[i].Name), s.say(out[i].Parent)
	}
	return out, err
}

// foreign tells whether the source is a snapshot that is named as another tenant's than the
// principal's own. If that is a public one, everybody may fork its snapshots; others, and
// those that there are not, the host refuses with one answer.
func (s *scoped) foreign(r *api.ForkRequest) bool {
	n, err := disk.ParseName(r.Source, true)
	return err == nil && s.p.Tenant != "" && strings.Contains(r.Source, "/") && n.Tenant != s.p.Tenant && (n.Snapshot != "" || r.At != "")
}

func (s *scoped) Snapshot(ctx context.Context, name, snapshot, expires string) (out api.Snapshot, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	out, err = s.b.Snapshot(ctx, name, snapshot, expires)
	out.Volume = s.say(out.Volume)
	return out, err
}

func (s *scoped) Snapshots(ctx context.Context, name string) (out []api.Snapshot, err error) {
	if name, err = s.in(name); err != nil {
		return nil, err
	}
	out, err = s.b.Snapshots(ctx, name)
	for i := range out {
		out[i].Volume = s.say(out[i].Volume)
	}
	return out, err
}

func (s *scoped) Rollback(ctx context.Context, name, to string, force bool) (out api.Volume, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	return s.volume(s.b.Rollback(ctx, name, to, force))
}

func (s *scoped) Restore(ctx context.Context, name, as string) (out api.Volume, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	if as != "" {
		if as, err = s.made(as); err != nil {
			return out, err
		}
	}
	return s.volume(s.b.Restore(ctx, name, as))
}

func (s *scoped) Removed(ctx context.Context) (out []api.Removed, err error) {
	list, err := s.b.Removed(ctx)
	for _, x := range list {
		if plain, ok := s.out(x.Name); ok {
			x.Name, x.Parent = plain, s.say(x.Parent)
			out = append(out, x)
		}
	}
	return out, err
}

func (s *scoped) Flush(ctx context.Context, name string) (out api.Flush, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	return s.b.Flush(ctx, name)
}

func (s *scoped) Sleep(ctx context.Context, name string, portable, force bool) (out api.Volume, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	return s.volume(s.b.Sleep(ctx, name, portable, force))
}

func (s *scoped) Wake(ctx context.Context, name string, force bool, expect string) (out api.Volume, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	return s.volume(s.b.Wake(ctx, name, force, expect))
}

func (s *scoped) Log(ctx context.Context, name, before string, count uint64) ([]api.Commit, error) {
	name, err := s.in(name)
	if err != nil {
		return nil, err
	}
	return s.b.Log(ctx, name, before, count)
}

func (s *scoped) Diff(ctx context.Context, a, b string) (out api.Diff, err error) {
	if a, err = s.in(a); err != nil {
		return out, err
	}
	if b, err = s.in(b); err != nil {
		return out, err
	}
	out, err = s.b.Diff(ctx, a, b)
	out.A, out.B = s.say(out.A), s.say(out.B)
	return out, err
}

func (s *scoped) Cost(ctx context.Context, name string) (out api.Cost, err error) {
	if name, err = s.one(name); err != nil {
		return out, err
	}
	return s.b.Cost(ctx, name)
}

func (s *scoped) Usage(ctx context.Context, name string) (out api.Usage, err error) {
	if name == "" {
		return s.usages(ctx)
	}
	if name, err = s.in(name); err != nil {
		return out, err
	}
	out, err = s.b.Usage(ctx, name)
	with := out.SharedWith
	out.SharedWith = nil
	for _, x := range with {
		if plain, ok := s.out(x.Name); ok {
			out.SharedWith = append(out.SharedWith, api.SharedWith{Name: plain, Bytes: x.Bytes})
		}
	}
	return out, err
}

// usages adds up what the principal's volumes use. What they share is counted for each.
func (s *scoped) usages(ctx context.Context) (out api.Usage, err error) {
	all, err := s.b.Usage(ctx, "")
	out.Volumes = []api.VolumeUsage{}
	for _, x := range all.Volumes {
		plain, ok := s.out(x.Name)
		if !ok {
			continue
		}
		x.Name = plain
		out.Volumes = append(out.Volumes, x)
		out.Logical += x.Logical
		out.Dirty += x.Dirty
		out.Exclusive += x.Exclusive
		out.Shared += x.Shared
		out.FreedIfRemoved += x.FreedIfRemoved
		out.Stored += x.Stored
	}
	return out, err
}

func (s *scoped) Verify(ctx context.Context, name string, cold bool) (out api.Verify, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	out, err = s.b.Verify(ctx, name, cold)
	out.Name = s.say(out.Name)
	return out, err
}

func (s *scoped) Hydrate(ctx context.Context, name string, rate uint64) (out api.Hydrate, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	out, err = s.b.Hydrate(ctx, name, rate)
	out.Name = s.say(out.Name)
	return out, err
}

func (s *scoped) URI(ctx context.Context, name string) (string, error) {
	name, err := s.in(name)
	if err != nil {
		return "", err
	}
	return s.b.URI(ctx, name)
}

func (s *scoped) Stats(ctx context.Context, name string) (out api.Stats, err error) {
	if name, err = s.one(name); err != nil {
		return out, err
	}
	out, err = s.b.Stats(ctx, name)
	out.Limits = nil // the host's
	return out, err
}

// one is in where "" would mean the whole host.
func (s *scoped) one(name string) (string, error) {
	if name == "" {
		return "", errs.New(errs.Denied, "%s may see volumes, not the whole host: name one", s.p.Who)
	}
	return s.in(name)
}

func (s *scoped) Barrier(ctx context.Context, name string, through uint64) (out api.Flush, err error) {
	if name, err = s.in(name); err != nil {
		return out, err
	}
	return s.b.Barrier(ctx, name, through)
}

// Events waits for one that the principal may see.
func (s *scoped) Events(ctx context.Context, after uint64, wait time.Duration) ([]api.Event, error) {
	for end := time.Now().Add(wait); ; {
		list, err := s.b.Events(ctx, after, max(0, time.Until(end)))
		var out []api.Event
		for _, e := range list {
			after = e.Sequence
			if plain, ok := s.out(e.Volume); ok && e.Volume != "" {
				e.Volume = plain
				out = append(out, e)
			}
		}
		if len(out) > 0 || len(list) == 0 || err != nil {
			return out, err
		}
	}
}

// What follows concerns the host, the store or other hosts.

func (s *scoped) notHis() error {
	return errs.New(errs.Denied, "%s may see volumes, not the host or the store", s.p.Who)
}

func (s *scoped) Doctor(context.Context) ([]api.Check, error) { return nil, s.notHis() }

func (s *scoped) Release(context.Context, string, api.ReleaseRequest) (api.Volume, error) {
	return api.Volume{}, s.notHis()
}

func (s *scoped) Blocks(context.Context, api.BlocksRequest, func(int, []byte) error) error {
	return s.notHis()
}

func (s *scoped) Attach(context.Context, string, api.AttachRequest) (api.Attachment, error) {
	return api.Attachment{}, s.notHis()
}

func (s *scoped) Detach(context.Context, api.DetachRequest) (api.Attachment, error) {
	return api.Attachment{}, s.notHis()
}

func (s *scoped) Hosts(context.Context) ([]api.StoreHost, error) { return nil, s.notHis() }

func (s *scoped) ForgetHost(context.Context, string, bool) (api.Forgotten, error) {
	return api.Forgotten{}, s.notHis()
}

func (s *scoped) Collect(context.Context, api.CollectRequest) (api.Collection, error) {
	return api.Collection{}, s.notHis()
}

func (s *scoped) CollectPlan(context.Context) ([]api.Planned, error) { return nil, s.notHis() }

func (s *scoped) CollectStatus(context.Context) (api.CollectStatus, error) {
	return api.CollectStatus{}, s.notHis()
}

func (s *scoped) Undelete(context.Context, []string) error { return s.notHis() }

func (s *scoped) Scrub(context.Context, api.ScrubRequest) (api.Scrub, error) {
	return api.Scrub{}, s.notHis()
}

func (s *scoped) Dump(context.Context, string, io.Writer) error { return s.notHis() }
