package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/cache"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
)

// sideBySide is how many objects a mark reads at a time.
const sideBySide = 32

// mark is what roots reach. A second run of it reads pins and logs again, and goes only
// where the first did not. Pins come first: a host publishes before it drops its pin, so
// what it refers to is seen in one of them.
type mark struct {
	store  objstore.Store
	memory *Memory // nil: none
	pages  *cache.Pages
	cache  *blockmap.PageCache
	listed map[epochID]*epoch // by the list of this run; nil before it

	mu      sync.Mutex // guards the rest; held over no I/O
	packs   map[pack.ID]*live
	nonces  map[pinobject.Nonce]bool // of upload sessions in progress
	walked  map[pack.Hash]bool       // map pages
	read    map[string]*commit       // by key
	roots   map[string]bool          // hashes of roots in text, whose boot lists are kept
	needed  map[epochID]bool         // by pins
	hashers map[string]*pack.Hasher
	sources map[string]*blockmap.Source
	used    uint64 // objects read

	forwards map[pack.ID][]string        // keys, by the old pack
	followed map[string]*forward.Forward // by key: those of reached packs
}

// commit is what a mark remembers of an object of a log. Objects never change, but for
// the stubs that a collector puts in their places.
type commit struct {
	closes  bool
	bare    bool // no root
	stub    bool
	removed bool // tombstone
	keep    string
	epochs  []epochID // whose objects its state names
}

func newMark(store objstore.Store, memory *Memory) *mark {
	pages := blockmap.NewPageCache(4 << 20)
	if memory != nil {
		pages = memory.pages
	}
	return &mark{
		store: store, memory: memory, pages: cache.StorePages(store), cache: pages,
		packs: map[pack.ID]*live{}, followed: map[string]*forward.Forward{}, nonces: map[pinobject.Nonce]bool{}, walked: map[pack.Hash]bool{}, read: map[string]*commit{},
		roots: map[string]bool{}, needed: map[epochID]bool{}, hashers: map[string]*pack.Hasher{}, sources: map[string]*blockmap.Source{},
	}
}

// run marks everything that roots reach, and returns the logs. An object that cannot be
// read ends it, with its key: nothing may be condemned then.
func (m *mark) run(ctx context.Context) (*logs, error) {
	m.listed = nil // what the last run saw may have been replaced
	late := fault.Is("gc-logs-before-pins")
	if !fault.Is("gc-ignores-pins") && !late {
		if err := m.pins(ctx); err != nil {
			return nil, fmt.Errorf("marking what pins keep: %w", err)
		}
	}
	if err := m.listForwards(ctx); err != nil {
		return nil, err
	}
	l, err := listLogs(ctx, m.store)
	if err != nil {
		return nil, err
	}
	m.listed = l.epochs
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, log := range l.volumes {
		g.Go(func() (err error) {
			defer errs.Catch(&err)
			return m.log(gctx, log)
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if late {
		if err := m.pins(ctx); err != nil {
			return nil, err
		}
	}
	return l, m.follow(ctx)
}

// pins marks what pins name.
func (m *mark) pins(ctx context.Context) error {
	var all []pinobject.Pin
	if err := pinobject.List(ctx, m.store, "", func(p pinobject.Pin) error { all = append(all, p); return nil }); err != nil {
		return err
	}
	clear(m.needed)
	for i := range all {
		p := &all[i]
		m.mu.Lock()
		if p.Kind == pinobject.Session {
			m.nonces[p.Nonce] = true
		}
		for _, n := range p.Packs {
			m.pack(pack.ID(n)).whole = true
		}
		m.mu.Unlock()
		for _, key := range append([]string{p.Commit}, p.Commits...) {
			if key == "" {
				continue
			}
			vol, gen, err := commitlog.ParseKey(key)
			if err != nil {
				return fmt.Errorf("pin %s: %w", p.Key(), err)
			}
			c, err := m.commit(ctx, vol, gen)
			if err != nil {
				return fmt.Errorf("pin %s: %w", p.Key(), err)
			}
			m.mu.Lock()
			m.needed[epochID{vol.Tenant, vol.Name, gen.Epoch}] = true
			for _, e := range c.epochs {
				m.needed[e] = true
			}
			m.mu.Unlock()
		}
		for _, root := range p.Roots {
			// A pin does not say whose root it is. Pages are checked by the tenant's key, so
			// the tenants are tried.
			if err := m.rootOfSomeone(ctx, root); err != nil {
				return fmt.Errorf("pin %s: %w", p.Key(), err)
			}
		}
	}
	return nil
}

// log marks what the commits of a log name: those of its epochs that are in the run from
// the first object to the first gap or seal. What lies beyond is no root.
func (m *mark) log(ctx context.Context, l *log) error {
	for _, e := range l.epochs {
		if !e.has(1) {
			continue // not begun
		}
		first, err := m.commit(ctx, l.vol, commitlog.Generation{Epoch: e.number, Number: 1})
		if err != nil {
			return err
		}
		e.first = first
		if first.stub || first.closes {
			continue
		}
		closed, err := m.epoch(ctx, l.vol, e)
		if err != nil {
			return err
		}
		for _, c := range closed {
			e.names = append(e.names, c.epochs...)
			if !c.bare {
				e.keep = c.keep
			}
		}
	}
	return nil
}

// epoch marks what the commits of an epoch name, and returns them.
func (m *mark) epoch(ctx context.Context, vol commitlog.Volume, e *epoch) ([]*commit, error) {
	n := e.run()
	list, says := make([]*commit, n), make([]*told, n)
	at := func(i int) commitlog.Generation { return commitlog.Generation{Epoch: e.number, Number: uint64(i) + 1} }
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i
	}
	err := sideBySideEach(ctx, numbers, func(ctx context.Context, i int) (err error) {
		list[i], says[i], err = m.load(ctx, vol, at(i))
		return err
	})
	if err != nil {
		return nil, err
	}
	// What lies beyond a seal is no root.
	if end := slices.IndexFunc(list, func(c *commit) bool { return c.closes }); end >= 0 {
		list, numbers = list[:end+1], numbers[:end+1]
	}
	return list, sideBySideEach(ctx, numbers, func(ctx context.Context, i int) error { return m.reachAll(ctx, vol, at(i), list[i], says[i]) })
}

// commit reads an object of a log, once, and marks what it names.
func (m *mark) commit(ctx context.Context, vol commitlog.Volume, g commitlog.Generation) (*commit, error) {
	c, t, err := m.load(ctx, vol, g)
	if err == nil {
		err = m.reachAll(ctx, vol, g, c, t)
	}
	return c, err
}

// load returns an object of a log, and what it says, unless this mark knows that: then it is
// nil. An object may have become a stub since. Whoever takes it for a root keeps more.
func (m *mark) load(ctx context.Context, vol commitlog.Volume, g commitlog.Generation) (*commit, *told, error) {
	m.mu.Lock()
	c := m.read[vol.Key(g)]
	m.mu.Unlock()
	if c != nil {
		return c, nil, nil
	}
	t, err := m.tell(ctx, vol, g)
	if err != nil {
		return nil, nil, err
	}
	same := t.commit // without the blocks, which would stay as long as the mark
	return &same, t, nil
}

// reachAll marks what an object names that load returned.
func (m *mark) reachAll(ctx context.Context, vol commitlog.Volume, g commitlog.Generation, c *commit, t *told) error {
	if t == nil {
		return nil
	}
	key := vol.Key(g)
	if !c.bare {
		if err := m.state(ctx, vol.Tenant, t); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	m.mu.Lock()
	m.read[key] = c
	m.used++
	m.mu.Unlock()
	return nil
}

// state marks what a state names: the blocks of its root and its snapshots, those that its
// data commits name, and its own data.
func (m *mark) state(ctx context.Context, tenant string, t *told) error {
	for _, root := range t.roots {
		if err := m.root(ctx, tenant, root); err != nil {
			return err
		}
	}
	for _, run := range t.runs {
		vol := commitlog.Volume{Tenant: tenant, Name: run.Name}
		for n := run.First; n <= run.Last; n++ {
			if err := m.data(ctx, vol, commitlog.Generation{Epoch: run.Epoch, Number: n}); err != nil {
				return err
			}
		}
	}
	return m.blocks(t)
}

// data marks the blocks of a data commit that a state names, which may be in an epoch that
// is no root any more.
func (m *mark) data(ctx context.Context, vol commitlog.Volume, g commitlog.Generation) error {
	key := "data of " + vol.Key(g)
	m.mu.Lock()
	done := m.read[key] != nil || m.read[vol.Key(g)] != nil
	m.mu.Unlock()
	if done {
		return nil
	}
	t, err := m.tell(ctx, vol, g)
	if err != nil {
		return err
	}
	if err := m.blocks(t); err != nil {
		return fmt.Errorf("%s: %w", vol.Key(g), err)
	}
	m.mu.Lock()
	m.read[key] = &commit{}
	m.used++
	m.mu.Unlock()
	return nil
}

// blocks marks the blocks that the data of an object names.
func (m *mark) blocks(t *told) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range t.blocks {
		m.reach(&t.blocks[i])
	}
	return t.wrong
}

// source returns the pages of a tenant.
func (m *mark) source(tenant string) *blockmap.Source {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sources[tenant]
	if s == nil {
		h := pack.NewHasher(tenant)
		s = m.cache.Source(m.pages.For(h), h)
		m.sources[tenant] = s
	}
	return s
}

// root marks the packs of a map's pages and blocks. Pages that maps share are read once.
func (m *mark) root(ctx context.Context, tenant string, root blockmap.Root) error {
	if root.IsHole() {
		return nil
	}
	bm, err := blockmap.New(m.source(tenant), root, root.Span())
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.roots[root.Ref.Hash.String()] = true
	m.mu.Unlock()
	// A page is walked from the moment somebody is about to read it, so that walks side by
	// side read it once. If the walk fails, none of its pages is: what is under them is not
	// marked, and another tenant may be tried, who must not find them done.
	begun := map[pack.Hash]bool{}
	err = bm.WalkPages(ctx, func(ref pack.Ref) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.reach(&ref)
		if m.walked[ref.Hash] {
			return true
		}
		m.walked[ref.Hash], begun[ref.Hash] = true, true
		return false
	}, func(ref pack.Ref, p blockmap.Page) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, child := range p.All() {
			m.reach(&child)
		}
		m.used++
		return nil
	})
	if err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		for h := range begun {
			delete(m.walked, h)
		}
	}
	return err
}

// rootOfSomeone marks a root of which the tenant is not known.
func (m *mark) rootOfSomeone(ctx context.Context, root blockmap.Root) (err error) {
	tenants := []string{"default"} // which may have nothing in the store yet
	if err := commitlog.Tenants(ctx, m.store, func(t string) error { tenants = append(tenants, t); return nil }); err != nil {
		return err
	}
	err = errs.New(errs.NotFound, "no tenant has the root %s", root)
	for _, t := range tenants {
		if err = m.root(ctx, t, root); err == nil || !errors.Is(err, errs.Corrupt) {
			return err
		}
	}
	return err
}

// kept tells whether what a key is about is marked: the root of a boot list, or the old
// pack of a forward.
func (m *mark) kept(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, _, is := forward.ParseKey(key); is {
		return m.followed[key] != nil
	}
	return m.roots[key[strings.LastIndexByte(key, '/')+1:]]
}
