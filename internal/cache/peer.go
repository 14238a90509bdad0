package cache

import (
	"context"

	"github.com/paraglide/glide/internal/pack"
)

// Peers are other hosts that may have blocks on their SSDs.
type Peers interface {
	// Fetch asks them for blocks of a tenant, each of size bytes. It calls came with each
	// block that one of them sent, and its number. came reports whether the block matches
	// its hash; if so, it may keep raw. Whatever they do, Fetch returns soon.
	Fetch(ctx context.Context, tenant string, hashes []pack.Hash, size int, came func(i int, raw []byte) bool)
}

// askPeers asks other hosts for blocks. It calls came with each one that they sent and that
// matches its hash, and returns the others, in their order.
func (d *Domain) askPeers(ctx context.Context, refs []pack.Ref, size int, came func(r *pack.Ref, raw []byte)) (rest []pack.Ref) {
	if d.cache.opts.Peers == nil {
		return refs
	}
	hashes, here := make([]pack.Hash, len(refs)), make([]bool, len(refs))
	for i := range refs {
		hashes[i] = refs[i].Hash
	}
	d.cache.opts.Peers.Fetch(ctx, d.tenant, hashes, size, func(i int, raw []byte) bool {
		if h, err := d.hasher.In(refs[i].Pack.Domain); err != nil || len(raw) != size || !h.Matches(hashes[i], raw) {
			return false
		}
		here[i] = true
		came(&refs[i], raw)
		return true
	})
	for i := range refs {
		if !here[i] {
			rest = append(rest, refs[i])
		}
	}
	return rest
}

// fromPeer returns a block that another host sent; nil: none did.
func (d *Domain) fromPeer(ctx context.Context, ref *pack.Ref, size int) (raw []byte) {
	if d.cache.opts.Peers == nil {
		return nil
	}
	d.askPeers(ctx, []pack.Ref{*ref}, size, func(_ *pack.Ref, b []byte) { raw = b })
	return raw
}

// ReadFor fills p with a block of the SSD tier for another host, and reports whether the
// tier has it. The block does not become more valuable to this host.
func (c *Cache) ReadFor(h *pack.Hash, p []byte) bool {
	return c.disk.entryOf(h, len(p), func(at place, entry []byte) bool {
		if c.disk.local != nil {
			buf := scratchPool.Get().(*scratch)
			defer scratchPool.Put(buf)
			return at.readSealed(h, p, 0, 0, len(p), true, buf) == whole
		}
		return at.fill(p, at.at(), true) == whole && matches(entry, h, 0, p)
	})
}
