// Package custody is the verbs of the API that are about tenants and their keys. What they
// do is done in packages tenants and keys.
//
// It has no lock.
package custody

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/catalog"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/rehome"
	"github.com/paraglide/glide/internal/seal"
	"github.com/paraglide/glide/internal/tenants"
)

// sideBySide is how many tenants are looked at at a time.
const sideBySide = 32

// Custody implements api.TenantKeeper. All methods may be called concurrently.
type Custody struct {
	disks *disk.Table
	with  []keys.Provider // of this host
	// unpin ends the host's upload session, and drops what an earlier process pinned: those
	// packs can be sealed again then.
	unpin   func(ctx context.Context) error
	mover   *rehome.Mover
	catalog *catalog.Catalog
}

var _ api.TenantKeeper = (*Custody)(nil)

// New returns the verbs of a host that opens keyrings with these providers. unpin ends its
// upload session, and drops what an earlier process of it pinned.
func New(disks *disk.Table, with []keys.Provider, m *rehome.Mover, cat *catalog.Catalog, unpin func(context.Context) error) *Custody {
	return &Custody{disks, with, unpin, m, cat}
}

// providers reads the texts of providers; none: those of the host.
func (c *Custody) providers(texts []string) ([]keys.Provider, error) {
	if len(texts) == 0 {
		return c.with, nil
	}
	list := make([]keys.Provider, len(texts))
	for i, text := range texts {
		var err error
		if list[i], err = keys.Parse(text); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// birth reads how the keys of a tenant are to be.
func (c *Custody) birth(b *tenants.Birth, texts []string, suite string) (err error) {
	b.Suite = seal.AES256GCM
	if suite != "" {
		if b.Suite, err = seal.ParseSuite(suite); err != nil {
			return err
		}
	}
	b.Keys, err = c.providers(texts)
	return err
}

// SealTenant implements api.TenantKeeper.
func (c *Custody) SealTenant(ctx context.Context, name string, r api.SealRequest) (api.Sealing, error) {
	b := tenants.Birth{Name: name, OneKey: r.OneKey}
	if err := c.birth(&b, r.Keys, r.Suite); err != nil {
		return api.Sealing{}, err
	}
	if _, err := c.disks.Tenants.Seal(ctx, b); err != nil {
		return api.Sealing{}, err
	}
	out, err := c.mover.Move(ctx, name, r.Rate)
	if err != nil {
		return out, err
	}
	if out.Left == nil {
		out.Left = []api.Unsealed{}
	}
	out.Tenant, err = c.Tenant(ctx, name)
	return out, err
}

// CreateTenant implements api.TenantKeeper.
func (c *Custody) CreateTenant(ctx context.Context, r api.TenantRequest) (api.Tenant, error) {
	b := tenants.Birth{Name: r.Name, OneKey: r.OneKey, Public: r.Public, Hidden: r.HideNames, SSE: r.SSE, KMSKey: r.KMSKey}
	if err := c.birth(&b, r.Keys, r.Suite); err != nil {
		return api.Tenant{}, err
	}
	if len(b.Keys) == 0 {
		return api.Tenant{}, errs.New(errs.Invalid, "tenant %q needs keys: name key providers (--key), or have this daemon know some (glide serve --key); a plain tenant need not be created", r.Name)
	}
	info, err := c.disks.Tenants.Create(ctx, b)
	return shown(&info), err
}

// Tenants implements api.TenantKeeper: those that have a record, and those that have volumes
// here or in the store.
func (c *Custody) Tenants(ctx context.Context) ([]api.Tenant, error) {
	names := map[string]bool{}
	broken := []api.Tenant{} // an empty list is no null
	err := tenants.Records(ctx, c.disks.Store, func(r tenants.Record, err error) error {
		if names[r.Tenant] = true; err != nil {
			names[r.Tenant] = false
			broken = append(broken, api.Tenant{Name: r.Tenant, State: api.TenantLocked, Reason: err.Error(), Keys: []string{}, Roots: []api.Root{}})
		}
		return nil
	})
	if err == nil {
		err = commitlog.Tenants(ctx, c.disks.Store, func(name string) error { names[name] = true; return nil })
	}
	if err != nil {
		return nil, err
	}
	for _, d := range c.disks.All() {
		names[d.State().Tenant] = true
	}
	list := broken
	found := make(chan api.Tenant, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(sideBySide)
	for name, readable := range names {
		if readable {
			g.Go(func() (err error) {
				defer errs.Catch(&err)
				info, err := c.disks.Tenants.Show(gctx, name)
				t := shown(&info)
				if errs.KindOf(err) == errs.NotFound && err != nil { // it has volumes on this host only
					t, err = api.Tenant{Name: name, State: api.TenantPlain, Keys: []string{}, Roots: []api.Root{}}, nil
				}
				if err == nil {
					found <- t
				}
				return err
			})
		}
	}
	err = g.Wait()
	close(found)
	for t := range found {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b api.Tenant) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list, err
}

// Tenant implements api.TenantKeeper.
func (c *Custody) Tenant(ctx context.Context, name string) (api.Tenant, error) {
	info, err := c.disks.Tenants.Show(ctx, name)
	if err != nil {
		return api.Tenant{}, err
	}
	t := shown(&info)
	t.Isolated, err = c.disks.Tenants.Isolated(ctx, name)
	return t, err
}

// EraseTenant implements api.TenantKeeper. A tenant of which this host has open volumes is
// errs.Busy: guests would lose their disks. Its isolated domains are erased with it.
func (c *Custody) EraseTenant(ctx context.Context, name string) (api.Tenant, error) {
	for _, d := range c.disks.All() {
		if st := d.State(); (st.Tenant == name || disk.DomainName(&st) == name) && d.Exports() > 0 {
			return api.Tenant{}, errs.New(errs.Busy, "volume %q has %d open NBD connection(s): disconnect the guests of tenant %q first", d, d.Exports(), name)
		}
	}
	before, err := c.disks.Tenants.Show(ctx, name)
	if err != nil {
		return api.Tenant{}, err
	}
	if before.Public {
		if err := c.unused(ctx, &before); err != nil {
			return api.Tenant{}, err
		}
	}
	if err := c.disks.Tenants.Erase(ctx, name); err != nil {
		return api.Tenant{}, err
	}
	c.disks.Log.Warn("the keys of a tenant were erased", slog.String("tenant", name))
	info, err := c.disks.Tenants.Show(ctx, name)
	t := shown(&info)
	for _, w := range before.Wraps { // they open copies of the keyring that somebody has
		t.Keys = append(t.Keys, w.String())
	}
	return t, err
}

// unused refuses to erase a public tenant as long as volumes of others in the store name what
// it has, or may: they would lose it.
func (c *Custody) unused(ctx context.Context, public *tenants.Info) error {
	var users []string
	err := c.catalog.EachStored(ctx, func(n disk.Name) bool { return n.Tenant != public.Tenant }, func(n disk.Name, tip *commitlog.Object, err error) error {
		switch {
		case errors.Is(err, keys.ErrErased) || errs.KindOf(err) == errs.NotFound && err != nil:
			return nil // it can read nothing any more
		case err != nil:
			return fmt.Errorf("whether %s was forked from an image of %s: %w", n, public.Tenant, err)
		case !tip.Tombstone && slices.Contains(tip.State.Domains, public.Domain):
			users = append(users, n.String())
		}
		return nil
	})
	if err != nil || len(users) == 0 {
		return err
	}
	slices.Sort(users)
	return errs.New(errs.WouldLose, "%d volumes of others are forks of what tenant %q has, and would lose it: %s; remove them first", len(users), public.Tenant, strings.Join(users[:min(len(users), 5)], ", "))
}

// CheckTenant implements api.TenantKeeper.
func (c *Custody) CheckTenant(ctx context.Context, name string) ([]api.KeyCheck, error) {
	tried, err := c.disks.Tenants.Check(ctx, name)
	list := make([]api.KeyCheck, len(tried))
	for i, a := range tried {
		list[i] = api.KeyCheck{Key: a.Wrap.String(), Opens: a.With != nil && a.Err == nil}
		if a.With != nil {
			list[i].With = a.With.String()
		}
		if a.Err != nil {
			list[i].Error = a.Err.Error()
		}
	}
	return list, err
}

// RewrapTenant implements api.TenantKeeper.
func (c *Custody) RewrapTenant(ctx context.Context, name string, r api.RewrapRequest) (api.Tenant, error) {
	to, err := c.providers(r.Keys)
	switch {
	case err != nil:
		return api.Tenant{}, err
	case len(to) == 0, r.Add && len(r.Keys) == 0:
		return api.Tenant{}, errs.New(errs.Invalid, "name the key providers (--key) for whom the keys of tenant %q are to be wrapped", name)
	}
	var info tenants.Info
	if r.Add {
		info, err = c.disks.Tenants.Add(ctx, name, to)
	} else {
		info, err = c.disks.Tenants.Rewrap(ctx, name, to, r.OneKey)
	}
	return shown(&info), err
}

// RotateTenant implements api.TenantKeeper.
func (c *Custody) RotateTenant(ctx context.Context, name string, r api.RotateRequest) (api.Tenant, error) {
	info, err := c.disks.Tenants.Rotate(ctx, name, r.Conv)
	return shown(&info), err
}

func shown(i *tenants.Info) api.Tenant {
	t := api.Tenant{
		Name: i.Tenant, State: api.TenantPlain, Reason: i.Locked, Domain: tenants.DomainText(i.Domain), Keyring: i.Keyring, OpenedBy: i.OpenedBy,
		Keys: []string{}, Roots: []api.Root{}, Public: i.Public, SSE: i.SSE, KMSKey: i.KMSKey,
	}
	if i.Hidden {
		t.Names = tenants.HiddenNames
	}
	switch {
	case i.Locked != "":
		t.State = api.TenantLocked
	case i.Moving:
		t.State = api.TenantMoving
	case i.Domain != 0:
		t.State = api.TenantSealed
	}
	if i.Keyring != 0 {
		t.Suite = i.Suite.String()
	}
	for _, w := range i.Wraps {
		t.Keys = append(t.Keys, w.String())
	}
	for _, r := range i.Roots {
		t.Roots = append(t.Roots, api.Root{Number: uint64(r.Number), State: string(r.State), CreatedAt: r.Created.UTC().Truncate(time.Second)})
	}
	if !i.CreatedAt.IsZero() {
		at := i.CreatedAt.UTC()
		t.CreatedAt = &at
	}
	return t
}
