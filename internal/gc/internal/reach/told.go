package reach

import (
	"context"
	"errors"
	"fmt"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/fault"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/recall"
)

// memoryLogs and memoryPages are how many bytes a Memory may take.
const (
	memoryLogs  = 16 << 20
	memoryPages = 16 << 20
)

// Memory is what a collector remembers between its rounds: what objects of logs say, and map
// pages, by their hashes. Marks read nothing of it again. What they reach is marked anew each
// time, from what a list shows to be there after the pins were read. Its zero value is of no
// use; nil is a collector that remembers nothing.
type Memory struct {
	logs  *recall.Memory[*told]
	pages *blockmap.PageCache
}

// NewMemory returns an empty memory. One round at a time may use it.
func NewMemory() *Memory {
	return &Memory{recall.New[*told](memoryLogs), blockmap.NewPageCache(memoryPages)}
}

// Turn ends a turn: what no mark asked for since the last one is gone.
func (m *Memory) Turn() {
	if m != nil {
		m.logs.Turn()
	}
}

// forget forgets everything: something was not as it was remembered.
func (m *Memory) forget() {
	if m != nil {
		m.logs.Forget()
		m.pages = blockmap.NewPageCache(memoryPages)
	}
}

// told is what an object of a log says. It never changes.
type told struct {
	commit
	header bool            // no more is known than its header, which needs no keys
	roots  []blockmap.Root // of its state and of its snapshots
	runs   []commitlog.DataRun
	blocks []pack.Ref // of its own data
	wrong  error      // of its data
}

// newTold takes from an object what a mark needs.
func newTold(o *commitlog.Object) *told {
	s := &o.State
	t := headerOf(o, s.DomainName())
	t.header, t.bare, t.keep = false, o.Bare(), s.Keep
	t.blocks, t.wrong = blocksOf(o.Data)
	if t.bare {
		return t
	}
	t.roots, t.runs = append(t.roots, s.Root), s.DataCommits
	for i := range s.Snapshots {
		if !fault.Is("gc-forgets-snapshots") {
			t.roots = append(t.roots, s.Snapshots[i].Root)
		}
	}
	for _, f := range s.SealedFrom {
		if !fault.Is("gc-forgets-former-owners") {
			t.epochs = append(t.epochs, EpochID{s.Tenant, o.Log().Name, f.Generation.Epoch})
		}
	}
	for _, run := range s.DataCommits {
		t.epochs = append(t.epochs, EpochID{s.Tenant, run.Name, run.Epoch})
	}
	return t
}

// headerOf takes from an object of a domain what a mark needs of its header.
func headerOf(o *commitlog.Object, domain string) *told {
	return &told{header: true, commit: commit{domain: domain, closes: o.Closes(), bare: true, stub: o.Kind == commitlog.Stub, removed: o.Tombstone}}
}

// blocksOf returns the blocks that a data section names.
func blocksOf(section []byte) (refs []pack.Ref, err error) {
	if len(section) == 0 || fault.Is("gc-forgets-data-commits") {
		return nil, nil
	}
	ranges, err := commitlog.DecodeData(section)
	for _, r := range ranges {
		if r.Block != nil && !r.Block.IsHole() {
			refs = append(refs, *r.Block)
		}
	}
	return refs, err
}

// size is about what it takes, in bytes.
func (t *told) size() int64 {
	return int64(200 + 80*len(t.roots) + 100*len(t.epochs) + 120*len(t.runs) + 80*len(t.blocks))
}

// tell returns what an object of a log says: from memory if the list of this run shows that
// it is still the one that was read.
func (m *Mark) tell(ctx context.Context, vol commitlog.Volume, g commitlog.Generation) (*told, error) {
	in := m.listed[EpochID{vol.Tenant, vol.Name, g.Epoch}].info(g.Number)
	if m.memory != nil {
		if t, ok := m.memory.logs.Recall(in); ok && !(t.header && m.scope.reads(t.domain)) {
			return t, nil
		}
	}
	key := vol.Key(g)
	raw, err := m.store.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if domain := commitlog.DomainOf(vol.Tenant, raw); !m.scope.reads(domain) {
		if h, err := commitlog.DecodeHeader(raw); err == nil {
			t := headerOf(h, domain) // what it names is of its own domain
			if m.memory != nil && int64(len(raw)) == in.Size {
				m.memory.logs.Remember(in, t, t.size())
			}
			return t, nil
		}
	}
	o, err := commitlog.Read(ctx, m.store, key, raw)
	if errors.Is(err, commitlog.ErrPlain) { // from before the tenant was sealed: it names nothing that is
		if o, err = commitlog.DecodeHeader(raw); err == nil {
			return headerOf(o, vol.Tenant), nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	t := newTold(o)
	if m.memory != nil && t.wrong == nil && int64(len(raw)) == in.Size {
		m.memory.logs.Remember(in, t, t.size())
	}
	return t, nil
}
