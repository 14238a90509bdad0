package boot

import (
	"context"
	"strings"

	"github.com/paraglide/glide/internal/errs"
)

// Mend checks a boot list that was read from the store under a key. A damaged one is
// replaced by this host's, or else removed: it is only a hint. It reports whether it was
// damaged.
func (b *Boots) Mend(ctx context.Context, key string, raw []byte) (damaged bool, err error) {
	if _, err := decode(raw); errs.KindOf(err) != errs.Corrupt || err == nil {
		return false, nil
	}
	parts := strings.Split(key, "/")
	if l := b.known(image{parts[1], parts[3]}); l != nil {
		return true, b.disks.Store.Put(ctx, key, l.encode())
	}
	return true, b.disks.Store.Delete(ctx, key)
}
