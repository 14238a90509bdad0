package gc

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/objstore"
)

// Prefix begins the keys of the collector's objects.
const Prefix = "gc/"

// CheckObject reads an object of the collector and returns what is wrong with it. The
// marker of a closed round counts by its key alone, and so does what the collector writes
// to learn the time.
func CheckObject(ctx context.Context, store objstore.Store, k string) error {
	rest, ok := strings.CutPrefix(k, prefix)
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return nil
	}
	domain, err1 := hex.DecodeString(parts[0])
	number, err2 := strconv.ParseUint(parts[1], 16, 64)
	if err1 != nil || err2 != nil || len(domain) != 4 {
		return errs.New(errs.Corrupt, "%s is no key of a round", k)
	}
	r := &round{domain: binary.BigEndian.Uint32(domain), number: ^number}
	switch parts[2] {
	case partFlags:
		_, err := readFlags(ctx, store, r)
		return err
	case partVerdict:
		f, err := readFlags(ctx, store, r)
		if err == nil {
			_, err = readVerdict(ctx, store, r, f)
		}
		return err
	}
	return nil
}
