package peers

import (
	"context"
	"encoding/hex"
	"sync"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// servedAtOnce is how many answers to other hosts are in progress. Each has one block in
// memory at a time, and reads the disk for one.
const servedAtOnce = 8

var blockPool = sync.Pool{New: func() any { return new([]byte) }}

// Serve calls send with those of the blocks that the SSD tier has, and their numbers in
// the request. The hash of a block depends on its tenant, so a request for one tenant gets
// nothing of another.
func (p *Peers) Serve(ctx context.Context, r api.BlocksRequest, send func(i int, raw []byte) error) error {
	hashes := make([]pack.Hash, len(r.Hashes))
	for i, s := range r.Hashes {
		if b, err := hex.DecodeString(s); err != nil || copy(hashes[i][:], b) != len(hashes[i]) || len(b) != len(hashes[i]) {
			return errs.New(errs.Invalid, "%.80q is not the hash of a block", s)
		}
	}
	if !p.o.On {
		return nil
	}
	select {
	case p.serving <- struct{}{}:
		defer func() { <-p.serving }()
	case <-ctx.Done():
		return ctx.Err()
	}
	buf := blockPool.Get().(*[]byte)
	defer blockPool.Put(buf)
	if n := int(r.BlockSize); cap(*buf) < n {
		*buf = make([]byte, n)
	}
	raw, hasher := (*buf)[:r.BlockSize], p.o.Hasher(r.Tenant)
	for i := range hashes {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !p.o.Local(&hashes[i], raw) || !hasher.Names(&hashes[i], raw) {
			continue
		}
		if err := send(i, raw); err != nil {
			return err
		}
		p.Stats.Served.Add(uint64(len(raw)))
	}
	return nil
}
