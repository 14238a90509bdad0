package host

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/rekey"
	"github.com/paraglide/glide/internal/scrub"
	"github.com/paraglide/glide/internal/tenants"
	"github.com/paraglide/glide/internal/tenants/tenantstest"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// covert begins every name of a volume, a snapshot and a label in tests of hidden names.
const covert = "covertname"

// eavesdropped is a store that knows what it was asked for.
type eavesdropped struct {
	objstore.Store

	mu    sync.Mutex
	heard map[string]bool // requests that told a name that is hidden
}

func (e *eavesdropped) hear(verb, key string, body []byte) {
	if strings.Contains(key, covert) || bytes.Contains(body, []byte(covert)) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.heard[verb+" "+key] = true
	}
}

func (e *eavesdropped) Put(ctx context.Context, key string, data []byte) error {
	e.hear("PUT", key, data)
	return e.Store.Put(ctx, key, data)
}

func (e *eavesdropped) PutIfAbsent(ctx context.Context, key string, data []byte) error {
	e.hear("PUT", key, data)
	return e.Store.PutIfAbsent(ctx, key, data)
}

func (e *eavesdropped) Get(ctx context.Context, key string) ([]byte, error) {
	e.hear("GET", key, nil)
	return e.Store.Get(ctx, key)
}

func (e *eavesdropped) Head(ctx context.Context, key string) (objstore.Info, error) {
	e.hear("HEAD", key, nil)
	return e.Store.Head(ctx, key)
}

func (e *eavesdropped) List(ctx context.Context, prefix, after string, limit int) ([]objstore.Info, error) {
	e.hear("LIST", prefix+" after "+after, nil)
	return e.Store.List(ctx, prefix, after, limit)
}

func (e *eavesdropped) DeleteBatch(ctx context.Context, keys []string) error {
	for _, k := range keys {
		e.hear("DELETE", k, nil)
	}
	return e.Store.DeleteBatch(ctx, keys)
}

// hiddenBed is a store with a tenant acme that hides names, whose keys the hosts have.
func hiddenBed(t *testing.T) *bed {
	t.Helper()
	b := newBed(t)
	b.retention = time.Nanosecond
	if len(b.keys) == 0 {
		b.keys = append(b.keys, tenantstest.Shared())
	}
	tenantstest.CreateHidden(t, b.store, tenantstest.Shared(), "acme")
	b.store = &eavesdropped{Store: b.store, heard: map[string]bool{}}
	return b
}

// nothingCovert looks for names in the keys and the bytes of all objects, and in what the
// store was asked for so far.
func nothingCovert(t *testing.T, b *bed) {
	t.Helper()
	e := b.store.(*eavesdropped)
	e.mu.Lock()
	defer e.mu.Unlock()
	for what := range e.heard {
		t.Errorf("%s tells a name that is hidden", what)
	}
	logs := 0
	for k, raw := range stored(t, b.store) {
		if strings.Contains(k, covert) || bytes.Contains(raw, []byte(covert)) {
			t.Errorf("%s has a name that is hidden", k)
		}
		if v, _, err := commitlog.ParseKey(k); err == nil && v.Tenant == "acme" {
			if logs++; !v.Hidden() {
				t.Errorf("%s is of a log whose name is not hidden", k)
			}
		}
	}
	if logs == 0 {
		t.Error("there are no logs")
	}
}

// listed are the names that a host lists, with their states.
func listed(t *testing.T, h *Host) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, v := range must[[]api.Volume](t)(h.List(ctx, true)) {
		if all[v.Name] != "" {
			t.Errorf("%s is listed twice", v.Name)
		}
		all[v.Name] = v.State
	}
	return all
}

// TestHiddenNames: what a tenant that hides names does with volumes, with every policy, is
// done as by others, by their names and for as many requests; and the store has none of them.
func TestHiddenNames(t *testing.T) {
	for _, policy := range []string{volume.Local, volume.Continuous, volume.Sync} {
		t.Run(policy, func(t *testing.T) { hiddenLife(t, policy) })
	}
}

func hiddenLife(t *testing.T, policy string) {
	b := hiddenBed(t)
	h1, h2 := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	name := "acme/" + covert
	must[api.Volume](t)(h1.Create(ctx, api.CreateRequest{Name: name, Size: 64 * mib, Durability: policy}))
	must[api.Volume](t)(h1.Set(ctx, name, api.Settings{"label.app": covert + "label"}))
	data := fill(t, h1, name, 1, 0, 3*mib)
	must[api.Snapshot](t)(h1.Snapshot(ctx, name, covert+"snap", ""))
	must[api.Flush](t)(h1.Flush(ctx, name))
	more := random(2, 300*kib)
	e, err := h1.exports.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	dev := e.Device.(nbd.Acknowledger)
	if err := guestWrite(dev, mib, more); err != nil { // with a policy, in data commits
		t.Fatal(err)
	}
	if err := dev.Flush(); err != nil {
		t.Fatal(err)
	}
	e.Closed()
	head := bytes.Clone(data)
	copy(head[mib:], more)
	if policy != volume.Local {
		must[api.Flush](t)(h1.Barrier(ctx, name, must[api.Volume](t)(h1.Show(ctx, name)).Sequence))
	} else {
		must[api.Flush](t)(h1.Flush(ctx, name))
	}

	if err := h2.disks.Tenants.Ready(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	f := must[[]api.Fork](t)(h2.Fork(ctx, api.ForkRequest{Source: name, Name: name + "-far"}))[0]
	if r := f.Requests; r.Put+r.Get+r.List+r.Head+r.Delete > 6 {
		t.Errorf("a fork on another host: %+v", r)
	}
	same(t, h2, name+"-far", 0, head)
	forkOf(t, h2, name+"@"+covert+"snap", name+"-snap")
	same(t, h2, name+"-snap", 0, data)
	forkOf(t, h1, name, name+"-near")
	must[api.Flush](t)(h1.Flush(ctx, name+"-near"))
	same(t, h1, name+"-near", 0, head)
	b.costing(t, "show of another host's", 4, func() {
		if v := must[api.Volume](t)(h2.Show(ctx, name+"-near")); v.Name != name+"-near" || v.Parent != name {
			t.Errorf("%+v", v)
		}
	})
	b.costing(t, "log -n 1", 3, func() { must[[]api.Commit](t)(h2.Log(ctx, name, "", 1)) })

	must[api.Volume](t)(h1.Rename(ctx, name, name+"-new"))
	if _, err := h2.Show(ctx, name); errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), name+"-new") {
		t.Errorf("the old name: %v", err)
	}
	want := map[string]string{name + "-new": "remote", name + "-near": "remote", name + "-far": "active", name + "-snap": "active"}
	if got := listed(t, h2); len(got) != len(want) || got[name+"-new"] != "remote" || got[name+"-near"] != "remote" {
		t.Errorf("listed: %v", got)
	}
	if h := must[[]api.StoreHost](t)(h2.Hosts(ctx)); len(h) != 2 {
		t.Errorf("hosts: %+v", h)
	}
	if v := must[api.Verify](t)(h1.Verify(ctx, name+"-new", true)); v.Blocks == 0 || len(v.Damaged) > 0 {
		t.Errorf("verified: %+v", v)
	}

	// Another host takes it over, removes it, and brings it back, beside a collector.
	must[api.Volume](t)(h2.Wake(ctx, name+"-new", true, ""))
	same(t, h2, name+"-new", 0, head)
	same(t, h2, name+"-new@"+covert+"snap", 0, data)
	more = fill(t, h2, name+"-new", 3, 0, 300*kib)
	copy(head, more)
	must[api.Flush](t)(h2.Flush(ctx, name+"-new"))
	if err := h2.Remove(ctx, name+"-new", true); err != nil {
		t.Fatal(err)
	}
	// Flagged, and taken back by what needs it.
	must[gc.Result](t)(gc.Run(ctx, gc.Options{Store: b.store, Tenants: tenantstest.New(b.store, tenantstest.Shared()), By: "test", Grace: time.Hour, Retention: time.Nanosecond, MinDead: 1}))
	gone := must[[]api.Removed](t)(h1.Removed(ctx))
	if len(gone) != 1 || gone[0].Name != name+"-new" || gone[0].Until.IsZero() {
		t.Errorf("removed: %+v", gone)
	}
	nothingCovert(t, b)
	must[api.Volume](t)(h1.Restore(ctx, name+"-new", name+"-back"))
	same(t, h1, name+"-back", 0, head)
	same(t, h1, name+"-back@"+covert+"snap", 0, data)
	must[api.Flush](t)(h1.Flush(ctx, name+"-back"))
	first := must[[]api.Commit](t)(h1.Log(ctx, name+"-back", "", 1))[0].Generation
	fill(t, h1, name+"-back", 4, 0, mib)
	must[api.Flush](t)(h1.Flush(ctx, name+"-back"))
	must[api.Volume](t)(h1.Rollback(ctx, name+"-back", first, true)) // as the store has it
	same(t, h1, name+"-back", 0, head)
	must[api.Volume](t)(h1.Rollback(ctx, name+"-back", covert+"snap", true))
	same(t, h1, name+"-back", 0, data)
	must[api.Flush](t)(h1.Flush(ctx, name+"-back"))
	collectWith(t, b.store, tenantstest.Shared())
	scrubbed := must[api.Scrub](t)(h1.Scrub(ctx, api.ScrubRequest{}))
	if scrubbed.Damaged > 0 || scrubbed.Blocks == 0 {
		t.Errorf("scrubbed: %+v", scrubbed)
	}
	h3 := b.host(t.TempDir(), "c")
	forkOf(t, h3, name+"-back", name+"-last")
	same(t, h3, name+"-last", 0, data)
	nothingCovert(t, b)
}

// TestHiddenGarbage: rounds keep what volumes with hidden names have, and their pins, and
// collect the rest; their names can be forgotten.
func TestHiddenGarbage(t *testing.T) {
	b := hiddenBed(t)
	h := b.host(t.TempDir(), "a")
	domain := must[tenants.Info](t)(h.disks.Tenants.Show(ctx, "acme")).Domain
	packs := func() int { return countKeys(t, b.store, "d/"+tenants.DomainText(domain)+"/packs/") }
	for i, name := range []string{covert + "-stays", covert + "-goes"} {
		must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/" + name, Size: 16 * mib}))
		for n := range 3 {
			fill(t, h, "acme/"+name, uint64(10*i+n), 0, 2*mib)
			must[api.Flush](t)(h.Flush(ctx, "acme/"+name))
		}
	}
	want := fill(t, h, "acme/"+covert+"-stays", 7, 0, 2*mib)
	must[api.Flush](t)(h.Flush(ctx, "acme/"+covert+"-stays"))
	// What a pin of a fork keeps, whatever becomes of its volume.
	name := disk.Name{Tenant: "acme", Volume: covert + "-goes"}
	tip := must[*commitlog.Object](t)(h.catalog.Tip(ctx, name))
	drop, err := h.pins.PinFork(ctx, must[string](t)(h.disks.KeyOf(ctx, name, tip.Generation)))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Remove(ctx, name.String(), false); err != nil {
		t.Fatal(err)
	}
	nothingCovert(t, b)
	before := packs()
	collectWith(t, b.store, tenantstest.Shared())
	if _, err := commitlog.Load(ctx, h.disks.Store, name.Log(), tip.Generation); err != nil {
		t.Errorf("what is pinned: %v", err)
	}
	pinned := packs()
	if err := drop(ctx); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		must[api.Collection](t)(h.Collect(ctx, api.CollectRequest{Grace: "0s"}))
	}
	if after := packs(); after == 0 || after >= pinned || pinned > before {
		t.Errorf("%d packs of %d, %d with a pin", after, before, pinned)
	}
	_, err = h.Collect(ctx, api.CollectRequest{Grace: "0s", Forget: true})
	if errs.KindOf(err) != errs.WouldLose || !strings.Contains(err.Error(), name.String()) {
		t.Errorf("forgotten without force: %v", err)
	}
	if c := must[api.Collection](t)(h.Collect(ctx, api.CollectRequest{Grace: "0s", Forget: true, Force: true})); c.ForgottenNames != 1 {
		t.Errorf("%+v", c)
	}
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name.String(), Size: mib})) // the name begins again
	if f := must[api.Flush](t)(h.Flush(ctx, name.String())); f.Generation != "1.1" {
		t.Errorf("%+v", f)
	}
	h2 := b.host(t.TempDir(), "b")
	must[api.Volume](t)(h2.Wake(ctx, "acme/"+covert+"-stays", true, ""))
	same(t, h2, "acme/"+covert+"-stays", 0, want)
	nothingCovert(t, b)
}

// TestHiddenRekey: a re-key seals logs with hidden names again, the owner of each begins an
// epoch, and the volumes that another host has are told by their names.
func TestHiddenRekey(t *testing.T) {
	b := hiddenBed(t)
	h, far := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/" + covert, Size: 16 * mib}))
	want := fill(t, h, "acme/"+covert, 1, 0, 2*mib)
	must[api.Flush](t)(h.Flush(ctx, "acme/"+covert))
	must[api.Volume](t)(far.Create(ctx, api.CreateRequest{Name: "acme/" + covert + "-far", Size: mib}))
	must[api.Flush](t)(far.Flush(ctx, "acme/"+covert+"-far"))
	must[tenants.Info](t)(h.disks.Tenants.Rotate(ctx, "acme", false))
	r, err := rekey.Run(ctx, rekeying(h, b.store))
	if err != nil || !slices.Equal(r.Volumes, []string{covert + "-far"}) {
		t.Errorf("%+v, %v", r, err)
	}
	if err := far.Remove(ctx, "acme/"+covert+"-far", true); err != nil {
		t.Fatal(err)
	}
	rekeyed(t, h, b.store)
	must[tenants.Info](t)(rekey.Retire(ctx, rekeying(h, b.store), 1))
	last := b.host(t.TempDir(), "c")
	copy(want, fill(t, h, "acme/"+covert, 2, 0, 4096))
	forkOf(t, last, "acme/"+covert, "acme/"+covert+"-fork")
	same(t, last, "acme/"+covert+"-fork", 0, want)
	nothingCovert(t, b)
}

// TestHiddenDamage: a scrub names the volume whose newest commit is damaged, and its owner
// stores it again.
func TestHiddenDamage(t *testing.T) {
	b := hiddenBed(t)
	h := b.host(t.TempDir(), "a")
	name := disk.Name{Tenant: "acme", Volume: covert}
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name.String(), Size: mib}))
	fill(t, h, name.String(), 1, 0, 300*kib)
	must[api.Flush](t)(h.Flush(ctx, name.String()))
	tip := must[*commitlog.Object](t)(h.catalog.Tip(ctx, name))
	own := scrub.New(h.disks, h.pins, h.boots, scrub.Rates{Store: 1 << 30}) // what this host's volumes reach
	for what, pass := range map[string]func() (api.Scrub, error){
		"asked for":         func() (api.Scrub, error) { return h.Scrub(ctx, api.ScrubRequest{}) },
		"in the background": func() (api.Scrub, error) { return own.Pass(ctx) },
	} {
		flip(t, b.store, tip.Log().Key(tip.Generation), 100)
		if s := must[api.Scrub](t)(pass()); s.Damaged != 1 || s.Repaired != 1 || len(s.Lost) > 0 {
			t.Errorf("%s: %+v", what, s)
		}
		must[*commitlog.Object](t)(h.catalog.Tip(ctx, name))
	}
	var dump bytes.Buffer
	if err := h.Dump(ctx, name.Log().Key(tip.Generation), &dump); err != nil || !strings.Contains(dump.String(), covert) {
		t.Errorf("dumped by its name: %v\n%s", err, &dump)
	}
}

// TestHiddenAndFlagged: of a volume with a hidden name, a state that a round has flagged is
// not forked, and a restore of what it has flagged ends the round.
func TestHiddenAndFlagged(t *testing.T) {
	b := hiddenBed(t)
	dir := t.TempDir()
	h, far := b.host(dir, "a"), b.host(t.TempDir(), "b")
	name := "acme/" + covert
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: mib}))
	fill(t, h, name, 1, 0, 300*kib)
	past := must[api.Flush](t)(h.Flush(ctx, name)).Generation
	if err := h.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h = b.host(dir, "a")
	want := fill(t, h, name, 2, 0, 300*kib)
	must[api.Flush](t)(h.Flush(ctx, name)) // in another epoch
	flag := func() {
		t.Helper()
		must[gc.Result](t)(gc.Run(ctx, gc.Options{Store: b.store, Tenants: tenantstest.New(b.store, tenantstest.Shared()), By: "test", Grace: time.Hour, Retention: time.Nanosecond}))
	}
	flagged := func() (n int) {
		t.Helper()
		for _, p := range must[[]api.Planned](t)(h.CollectPlan(ctx)) {
			if strings.HasPrefix(p.Key, b.logOf(name)) {
				n++
			}
		}
		return n
	}
	flag()
	if n := flagged(); n != 1 {
		t.Errorf("%d epochs are flagged", n)
	}
	_, err := far.Fork(ctx, api.ForkRequest{Source: name, At: past, Name: name + "-past"})
	if errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), "is being collected") {
		t.Errorf("a fork of what is flagged: %v", err)
	}
	for range 3 {
		runRound(t, b.store, 0)
	}
	if err := h.Remove(ctx, name, false); err != nil {
		t.Fatal(err)
	}
	flag()
	if n := flagged(); n != 1 {
		t.Errorf("%d epochs are flagged of a removed volume", n)
	}
	must[api.Volume](t)(far.Restore(ctx, name, name+"-back"))
	if s := must[api.CollectStatus](t)(h.CollectStatus(ctx)); s.Stage != "judged" { // by the restore, which spares it
		t.Errorf("the round is %s after a restore of what it flagged", s.Stage)
	}
	for range 3 {
		runRound(t, b.store, 0)
	}
	same(t, far, name+"-back", 0, want)
	nothingCovert(t, b)
}

// TestHiddenFormerOwner: a round keeps the commits of a host from which a volume with a
// hidden name was taken, for what that host had not published is told against them.
func TestHiddenFormerOwner(t *testing.T) {
	b := hiddenBed(t)
	h, far := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	name := disk.Name{Tenant: "acme", Volume: covert}
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name.String(), Size: mib}))
	fill(t, h, name.String(), 1, 0, 300*kib)
	must[api.Flush](t)(h.Flush(ctx, name.String()))
	tip := must[*commitlog.Object](t)(h.catalog.Tip(ctx, name))
	delete(b.peers, "a")
	must[api.Volume](t)(far.Wake(ctx, name.String(), true, ""))
	fill(t, far, name.String(), 2, 0, 300*kib)
	must[api.Flush](t)(far.Flush(ctx, name.String()))
	for range 3 {
		runRound(t, b.store, 0)
	}
	if o, err := commitlog.Load(ctx, far.disks.Store, name.Log(), tip.Generation); err != nil || o.Bare() {
		t.Errorf("the former owner's newest commit: %v", err)
	}
}

// TestHiddenOlderStore: a store that shows an older state of a volume with a hidden name than
// before is refused by a host that has read it.
func TestHiddenOlderStore(t *testing.T) {
	b := hiddenBed(t)
	now := &rolling{b.store}
	b.store = now
	h, far := b.host(t.TempDir(), "a"), b.host(t.TempDir(), "b")
	name := "acme/" + covert
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: name, Size: mib}))
	fill(t, h, name, 1, 0, 4096)
	must[api.Flush](t)(h.Flush(ctx, name))
	old := copyOf(t, now)
	fill(t, h, name, 2, 0, 4096)
	must[api.Flush](t)(h.Flush(ctx, name))
	must[api.Volume](t)(far.Show(ctx, name))
	now.Store = old
	_, err := far.Show(ctx, name)
	wantRolledBack(t, err)
}

// TestHiddenFromOthers: a host without the keys lists that there is a volume and that it is
// locked, and takes none for missing.
func TestHiddenFromOthers(t *testing.T) {
	b := hiddenBed(t)
	h := b.host(t.TempDir(), "a")
	must[api.Volume](t)(h.Create(ctx, api.CreateRequest{Name: "acme/" + covert, Size: mib}))
	must[api.Flush](t)(h.Flush(ctx, "acme/"+covert))
	b.keys = nil
	other := b.host(t.TempDir(), "b")
	got := listed(t, other)
	for name, state := range got {
		if !strings.HasPrefix(name, "acme/_") || state != api.TenantLocked {
			t.Errorf("%s is %s", name, state)
		}
	}
	if len(got) != 1 {
		t.Errorf("listed: %v", got)
	}
	for what, err := range map[string]error{
		"show": second(other.Show(ctx, "acme/"+covert)), "fork": second(other.Fork(ctx, api.ForkRequest{Source: "acme/" + covert, Name: "acme/f"})),
		"wake": second(other.Wake(ctx, "acme/"+covert, true, "")), "restore": second(other.Restore(ctx, "acme/"+covert, "")),
	} {
		if errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), `tenant "acme"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := other.Show(ctx, "acme/_abcdefghijklmnopqrstuvwxyz"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("by the name of a log: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
