package cache

import (
	"bytes"
	"context"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/readahead"
)

// peersOf are other hosts that send something for each block.
type peersOf func(i int, h pack.Hash) []byte

func (p peersOf) Fetch(_ context.Context, _ string, hashes []pack.Hash, _ int, came func(int, []byte) bool) {
	for i, h := range hashes {
		if raw := p(i, h); raw != nil {
			came(i, raw)
		}
	}
}

// TestPeersAreNotBelieved: what another host sends counts only if it is the block, for a
// guest, ahead of need, and when a volume is brought. The rest comes from the store.
func TestPeersAreNotBelieved(t *testing.T) {
	s := newStock(t, 24)
	find := map[pack.Hash]int{}
	for i := range s.refs {
		find[s.refs[i].Hash] = i
	}
	for what, p := range map[string]peersOf{
		"damaged bytes": func(_ int, h pack.Hash) []byte {
			raw := bytes.Clone(s.raw[find[h]])
			raw[len(raw)-1] ^= 1
			return raw
		},
		"another block": func(_ int, h pack.Hash) []byte { return s.raw[(find[h]+1)%len(s.raw)] },
		"half a block":  func(_ int, h pack.Hash) []byte { return s.raw[find[h]][:size/2] },
		"every other one": func(i int, h pack.Hash) []byte {
			if i%2 == 1 {
				return nil
			}
			return s.raw[find[h]]
		},
		"nothing": func(int, pack.Hash) []byte { return nil },
	} {
		t.Run(what, func(t *testing.T) {
			c, err := Open(Options{FS: vfs.NewMem(), Memory: 4 << 20, Disk: 1 << 30, Local: local, Store: s.store, Peers: p})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			d := c.Domain("t", s.hasher, nil)
			for i := range 4 {
				s.want(t, d, i)
			}
			var credit readahead.Credit
			d.Ahead(s.refs[4:12], size, 8, &credit)
			until(t, "what comes ahead is here", func() bool { return d.Has(&s.refs[11].Hash, size) && d.Has(&s.refs[4].Hash, size) })
			if _, err := d.Bring(t.Context(), s.refs, size, func(context.Context, int64) error { return nil }); err != nil {
				t.Fatal(err)
			}
			for i := range s.refs {
				p := make([]byte, size)
				if !d.ReadLocal(&s.refs[i].Hash, size, p, 0) || !bytes.Equal(p, s.raw[i]) {
					t.Fatalf("block %d is not what it was", i)
				}
			}
		})
	}
}
