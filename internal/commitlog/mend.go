package commitlog

import (
	"context"

	"github.com/zeebo/blake3"
)

// Mend stores the newest object again, because the store has damaged it. It reports
// whether it did: the object at the generation must be the newest, and this process must
// have sent it.
//
// The bytes are those that were sent, so a number still never changes its content (rule
// 5), whenever the request takes effect.
func (o *Owner) Mend(ctx context.Context, g Generation) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tip == nil || o.left != nil || o.tip.Generation != g || o.pending != nil || len(o.flights) > 0 {
		return false, nil
	}
	raw, err := o.raw, error(nil)
	if raw == nil {
		raw, err = o.tip.Encode()
	}
	if err != nil || blake3.Sum256(raw) != o.tip.Hash {
		return false, err
	}
	err = o.opts.Store.Put(ctx, o.tip.Log().Key(g), raw)
	return err == nil, err
}
