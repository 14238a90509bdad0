package collect

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/gc"
	"github.com/paraglide/glide/internal/objstore"
)

// turnPrefix begins the keys of turns: gc/turns/<complemented number>. A daemon takes a
// turn before it runs a round by itself, so that one host of a store does. It is about
// cost only: several collectors do no harm.
const turnPrefix = "gc/turns/"

// takeTurn reports whether it is this collector's turn to run a round: whether nobody has
// taken one for about as long as every, by the store's clock. A turn of a collector that
// died just ages. by names the collector.
func takeTurn(ctx context.Context, store objstore.Store, by string, every time.Duration) (bool, error) {
	var last objstore.Info
	var old []string
	number := uint64(0)
	err := objstore.ListAll(ctx, store, turnPrefix, "", func(in objstore.Info) bool {
		n, err := strconv.ParseUint(strings.TrimPrefix(in.Key, turnPrefix), 16, 64)
		switch {
		case err != nil:
		case number == 0:
			number, last = ^n, in
		default:
			old = append(old, in.Key)
		}
		return true
	})
	if err != nil {
		return false, err
	}
	if number > 0 {
		now, err := gc.StoreTime(ctx, store, by)
		if err != nil || now.Sub(last.Modified) < every-every/10 {
			return false, err
		}
		old = append(old, last.Key)
	}
	err = store.PutIfAbsent(ctx, fmt.Sprintf("%s%016x", turnPrefix, ^(number+1)), []byte(by+"\n"))
	if errors.Is(err, errs.Exists) {
		return false, nil
	}
	if err == nil && len(old) > 0 {
		err = store.DeleteBatch(ctx, old)
	}
	return err == nil, err
}
