package peers

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/pack"
)

// Peer is another host, seen through its API.
type Peer interface {
	// Blocks asks for blocks that the host's SSD may have. It calls got with each one that
	// came, which got may keep, and its number in the request.
	Blocks(ctx context.Context, r api.BlocksRequest, got func(i int, raw []byte) error) error
	Close()
}

// Options configure Peers.
type Options struct {
	On     bool                                // ask other hosts, and answer them
	Dial   func(addr, id string) (Peer, error) // returns a host at the address that it advertises; nil: no peer can be asked
	Uptime func() time.Duration                // a clock that is never set
	// Local fills p with a block of the SSD tier, and reports whether the tier has it.
	Local func(h *pack.Hash, p []byte) bool
	// Hasher returns the hasher of a tenant.
	Hasher func(tenant string) *pack.Hasher
}

// Stats are counters since the start.
type Stats struct {
	Fetched atomic.Uint64 // bytes of blocks from other hosts, verified
	Served  atomic.Uint64 // bytes of blocks for other hosts
	Bad     atomic.Uint64 // blocks from other hosts that did not match their hashes
}

// Bounds on what is remembered.
const (
	maxHosts   = 16 // of all tenants
	maxTenants = 64 // of one host
	maxAsked   = 3  // hosts that are asked for one block
)

// Peers are the other hosts of this one. It may be used concurrently.
type Peers struct {
	Stats   Stats
	o       Options
	serving chan struct{} // bounds the answers in progress

	mu    sync.Mutex
	hosts []*host // the one that was named last comes first
}

// New returns the peers of a host that knows none.
func New(o Options) *Peers {
	return &Peers{o: o, serving: make(chan struct{}, servedAtOnce)}
}

// Learn tells that the commit log names a host, with its addresses, as an owner of a
// volume of the tenant.
func (p *Peers) Learn(tenant, id string, addrs []string) {
	if !p.o.On || p.o.Dial == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, addr := range addrs[:min(len(addrs), maxAsked)] {
		h := newHost(id, addr)
		if i := slices.IndexFunc(p.hosts, func(h *host) bool { return h.addr == addr && h.id == id }); i >= 0 {
			h = p.hosts[i]
			p.hosts = slices.Delete(p.hosts, i, i+1)
		}
		h.tenants = front(h.tenants, tenant, maxTenants)
		if p.hosts = slices.Insert(p.hosts, 0, h); len(p.hosts) > maxHosts {
			p.hosts[maxHosts].forget()
			p.hosts = p.hosts[:maxHosts]
		}
	}
}

// front moves a name to the front of a list of at most n names.
func front(list []string, name string, n int) []string {
	list = slices.DeleteFunc(list, func(s string) bool { return s == name })
	list = slices.Insert(list, 0, name)
	return list[:min(len(list), n)]
}

// of returns the hosts to ask for blocks of a tenant.
func (p *Peers) of(tenant string) (list []*host) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.hosts {
		if slices.Contains(h.tenants, tenant) && len(list) < maxAsked {
			list = append(list, h)
		}
	}
	return list
}

// Close closes the connections to other hosts.
func (p *Peers) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range p.hosts {
		h.forget()
	}
}
