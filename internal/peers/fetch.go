package peers

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/pack"
)

// How long other hosts may take.
const (
	answerWithin = 100 * time.Millisecond // without any block; also the wait for one's turn
	leastRate    = 16 << 20               // bytes a second, of what came
	askedAtOnce  = 4                      // requests to one host; more wait
)

// host is another host that may have blocks.
type host struct {
	id      string // as the commit log has it
	addr    string
	tenants []string // that it had volumes of; under Peers.mu
	asking  chan struct{}

	mu     sync.Mutex
	memory memory
	peer   Peer // nil: not connected
}

func newHost(id, addr string) *host {
	return &host{id: id, addr: addr, asking: make(chan struct{}, askedAtOnce)}
}

// errBad ends a request whose answer has a block that does not match its hash.
var errBad = errors.New("a block does not match its hash")

// errSlow is the cause of a request's end if the host takes too long.
var errSlow = errors.New("the other host is too slow")

// Fetch asks other hosts for blocks of a tenant, each of size bytes. It calls came with
// each block that one of them sent, and its number. came reports whether the block matches
// its hash; if so, it may keep raw.
func (p *Peers) Fetch(ctx context.Context, tenant string, hashes []pack.Hash, size int, came func(i int, raw []byte) bool) {
	if !p.o.On {
		return
	}
	hosts := p.of(tenant)
	if len(hosts) == 0 {
		return
	}
	f := fetching{Peers: p, tenant: tenant, size: size, came: came}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	defer f.cancel(nil)
	f.late = time.AfterFunc(answerWithin, func() { f.cancel(errSlow) })
	defer f.late.Stop()
	f.by = time.Now().Add(answerWithin)
	left := make([]wanted, len(hashes))
	for i, h := range hashes {
		left[i] = wanted{i, h}
	}
	for _, h := range hosts {
		left = f.all(h, left)
	}
}

// wanted is a block that is asked for.
type wanted struct {
	i    int
	hash pack.Hash
}

// fetching is one call of Fetch.
type fetching struct {
	*Peers
	ctx    context.Context
	cancel context.CancelCauseFunc
	tenant string
	size   int
	came   func(i int, raw []byte) bool
	late   *time.Timer // calls cancel
	by     time.Time   // when
}

// all asks a host for blocks, and returns those that did not come.
func (f *fetching) all(h *host, want []wanted) (left []wanted) {
	most := max(1, min(api.MaxBlocks, api.MaxBlockBytes/f.size))
	for len(want) > 0 {
		n := min(len(want), most)
		left = append(left, f.some(h, want[:n])...)
		want = want[n:]
	}
	return left
}

// some asks a host for as many blocks as one request may name.
func (f *fetching) some(h *host, want []wanted) (left []wanted) {
	if f.ctx.Err() != nil || h.alone(f.o.Uptime()) {
		return want
	}
	select {
	case h.asking <- struct{}{}:
		defer func() { <-h.asking }()
	case <-f.ctx.Done():
		return want
	}
	ask, left := h.begin(f.o.Uptime(), want)
	if len(ask) == 0 {
		return want
	}
	began := time.Now()
	here := make([]bool, len(ask))
	err := f.request(h, ask, here)
	var lacked []pack.Hash
	for i, w := range ask {
		if !here[i] {
			left = append(left, w)
			lacked = append(lacked, w.hash)
		}
	}
	now := f.o.Uptime()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil:
		h.memory.answered(now, len(ask)-len(lacked), lacked)
		return left
	case errors.Is(err, errBad):
		f.Stats.Bad.Add(1)
		h.memory.lied(now)
	case f.ctx.Err() != nil && (context.Cause(f.ctx) != errSlow || time.Since(began) < answerWithin/2):
		h.memory.abandoned() // the caller gave up, or had too little time left
	default:
		h.memory.failed(now)
	}
	h.disconnect()
	return left
}

// alone reports whether the host is left alone now.
func (h *host) alone(now time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return now < h.memory.until
}

// begin decides what to ask the host for. It returns nothing if the host is left alone, or
// lacks all that is wanted; else the host's memory awaits the outcome.
func (h *host) begin(now time.Duration, want []wanted) (ask, left []wanted) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range want {
		if h.memory.mayHave(now, &w.hash) {
			ask = append(ask, w)
		} else {
			left = append(left, w)
		}
	}
	if len(ask) == 0 || !h.memory.mayAsk(now) {
		return nil, nil
	}
	return ask, left
}

// request asks a host for blocks, and notes which of them came.
func (f *fetching) request(h *host, ask []wanted, here []bool) error {
	peer, err := h.connect(f.o.Dial)
	if err != nil {
		return err
	}
	r := api.BlocksRequest{Tenant: f.tenant, BlockSize: uint64(f.size), Hashes: make([]string, len(ask))}
	for i, w := range ask {
		r.Hashes[i] = w.hash.String()
	}
	return peer.Blocks(f.ctx, r, func(i int, raw []byte) error {
		f.late.Stop() // the time that this host takes is not the other one's
		began := time.Now()
		if !f.came(ask[i].i, raw) {
			return errBad
		}
		here[i] = true
		f.Stats.Fetched.Add(uint64(len(raw)))
		f.by = f.by.Add(time.Since(began) + time.Duration(len(raw))*time.Second/leastRate)
		f.late.Reset(time.Until(f.by))
		return nil
	})
}

// connect returns the host's API.
func (h *host) connect(dial func(addr, id string) (Peer, error)) (Peer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.peer == nil {
		peer, err := dial(h.addr, h.id)
		if err != nil {
			return nil, err
		}
		h.peer = peer
	}
	return h.peer, nil
}

// disconnect makes the next request connect again, perhaps with another token. Under mu.
func (h *host) disconnect() {
	if h.peer != nil {
		h.peer.Close()
		h.peer = nil
	}
}

// forget closes the connections to the host.
func (h *host) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disconnect()
}
