package reach

import (
	"context"
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

// Mark is what roots reach, as far as it is of the domain of its scope. A second Run of it
// reads pins and logs again, and goes only where the first did not. Pins come first: a host
// publishes before it drops its pin, so what it refers to is seen in one of them.
type Mark struct {
	scope  *Scope
	store  objstore.Store // of the scope
	memory *Memory        // nil: none
	pages  *cache.Pages
	cache  *blockmap.PageCache
	listed map[EpochID]*epoch // by the list of this run; nil before it

	mu      sync.Mutex // guards the rest; held over no I/O
	packs   map[pack.ID]*live
	nonces  map[pinobject.Nonce]bool    // of upload sessions in progress
	walked  map[pageID]bool             // map pages
	read    map[string]*commit          // by key
	roots   map[string]bool             // hashes of roots in text, whose boot lists are kept
	needed  map[EpochID]bool            // by pins
	sources map[string]*blockmap.Source // of domains
	used    uint64                      // objects read

	forwards map[pack.ID][]string        // keys, by the old pack
	followed map[string]*forward.Forward // by key: those of reached packs
}

// pageID names a map page (domains-apart).
type pageID struct {
	domain uint32
	hash   pack.Hash
}

// commit is what a mark remembers of an object of a log. Objects never change, but for
// the stubs that a collector puts in their places.
type commit struct {
	domain  string // its name
	closes  bool
	bare    bool // no root
	stub    bool
	removed bool // tombstone
	keep    string
	epochs  []EpochID // whose objects its state names
}

// newMark returns a mark of nothing yet.
func newMark(scope *Scope, memory *Memory) *Mark {
	pages := blockmap.NewPageCache(4 << 20)
	if memory != nil {
		pages = memory.pages
	}
	return &Mark{
		scope: scope, store: scope.Store, memory: memory, pages: cache.StorePages(scope.Store), cache: pages,
		packs: map[pack.ID]*live{}, followed: map[string]*forward.Forward{}, nonces: map[pinobject.Nonce]bool{}, walked: map[pageID]bool{}, read: map[string]*commit{},
		roots: map[string]bool{}, needed: map[EpochID]bool{}, sources: map[string]*blockmap.Source{},
	}
}

// Run marks everything that roots reach, and returns the logs. An object that cannot be
// read ends it, with its key: nothing may be condemned then.
func (m *Mark) Run(ctx context.Context) (*Logs, error) {
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
	l, err := listLogs(ctx, m.scope)
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
func (m *Mark) pins(ctx context.Context) error {
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
			if !m.scope.lists(vol.Tenant) {
				continue // what it reaches is of other domains
			}
			c, err := m.commit(ctx, vol, gen)
			if err != nil {
				return fmt.Errorf("pin %s: %w", p.Key(), err)
			}
			m.mu.Lock()
			m.needed[EpochID{vol.Tenant, vol.Name, gen.Epoch}] = true
			for _, e := range c.epochs {
				m.needed[e] = true
			}
			m.mu.Unlock()
		}
		for _, root := range p.Roots {
			if err := m.rootOfSomeone(ctx, root); err != nil {
				return fmt.Errorf("pin %s: %w", p.Key(), err)
			}
		}
	}
	return nil
}

// log marks what the commits of a log name: those of its epochs that are in the run from
// the first object to the first gap or seal. What lies beyond is no root.
func (m *Mark) log(ctx context.Context, l *log) error {
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
func (m *Mark) epoch(ctx context.Context, vol commitlog.Volume, e *epoch) ([]*commit, error) {
	n := e.run()
	list, says := make([]*commit, n), make([]*told, n)
	at := func(i int) commitlog.Generation { return commitlog.Generation{Epoch: e.number, Number: uint64(i) + 1} }
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i
	}
	err := SideBySide(ctx, numbers, func(ctx context.Context, i int) (err error) {
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
	return list, SideBySide(ctx, numbers, func(ctx context.Context, i int) error { return m.reachAll(ctx, vol, at(i), list[i], says[i]) })
}

// commit reads an object of a log, once, and marks what it names.
func (m *Mark) commit(ctx context.Context, vol commitlog.Volume, g commitlog.Generation) (*commit, error) {
	c, t, err := m.load(ctx, vol, g)
	if err == nil {
		err = m.reachAll(ctx, vol, g, c, t)
	}
	return c, err
}

// load returns an object of a log, and what it says, unless this mark knows that: then it is
// nil. An object may have become a stub since. Whoever takes it for a root keeps more.
func (m *Mark) load(ctx context.Context, vol commitlog.Volume, g commitlog.Generation) (*commit, *told, error) {
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
func (m *Mark) reachAll(ctx context.Context, vol commitlog.Volume, g commitlog.Generation, c *commit, t *told) error {
	if t == nil {
		return nil
	}
	key := vol.Key(g)
	if !c.bare && m.scope.reads(c.domain) {
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
func (m *Mark) state(ctx context.Context, tenant string, t *told) error {
	for _, root := range t.roots {
		if err := m.root(ctx, t.domain, root); err != nil {
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
func (m *Mark) data(ctx context.Context, vol commitlog.Volume, g commitlog.Generation) error {
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
func (m *Mark) blocks(t *told) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range t.blocks {
		m.reach(&t.blocks[i])
	}
	return t.wrong
}

// source returns the pages of a domain.
func (m *Mark) source(domain string) *blockmap.Source {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sources[domain]
	if s == nil {
		h := m.scope.hasher(domain)
		if m.scope.past() {
			h = h.Granting(pack.NewHasher(domain))
		}
		s = m.cache.Source(m.pages.For(h), h)
		m.sources[domain] = s
	}
	return s
}

// root marks the packs of the pages and blocks of a domain's map.
func (m *Mark) root(ctx context.Context, domain string, root blockmap.Root) error {
	if root.IsHole() {
		return nil
	}
	return m.walk(ctx, m.source(domain), root)
}

// walk marks the packs of a map's pages and blocks. Pages that maps share are read once.
func (m *Mark) walk(ctx context.Context, src *blockmap.Source, root blockmap.Root) error {
	bm, err := blockmap.New(src, root, root.Span())
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.roots[root.Ref.Hash.String()] = true
	m.mu.Unlock()
	// A page is walked from the moment somebody is about to read it, so that walks side by
	// side read it once. If the walk fails, none of its pages is: what is under them is not
	// marked, and another tenant may be tried, who must not find them done.
	begun := map[pageID]bool{}
	err = bm.WalkPages(ctx, func(ref pack.Ref) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.reach(&ref)
		id := pageID{ref.Pack.Domain, ref.Hash}
		if m.walked[id] || ref.Pack.Domain == 0 && m.scope.past() {
			return true
		}
		m.walked[id], begun[id] = true, true
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
func (m *Mark) rootOfSomeone(ctx context.Context, root blockmap.Root) (err error) {
	for _, x := range m.scope.candidates(root.Ref.Pack.Domain) {
		if err = m.walk(ctx, m.cache.Source(m.pages.For(x.hasher), x.hasher), root); err == nil || !isOther(err) {
			return err
		}
	}
	return err
}

// Kept tells whether what a key is about is marked: the root of a boot list, or the old
// pack of a forward. What the mark does not read, it keeps.
func (m *Mark) Kept(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, _, is := forward.ParseKey(key); is {
		return m.followed[key] != nil
	}
	if !m.scope.reads(TenantOf(key)) {
		return true
	}
	return m.roots[key[strings.LastIndexByte(key, '/')+1:]]
}

// Needed are the epochs that pins name.
func (m *Mark) Needed() map[EpochID]bool { return m.needed }

// SideBySide calls fn for each of the list, some of them at a time.
func SideBySide[T any](ctx context.Context, list []T, fn func(context.Context, T) error) error {
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
