package inspect

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/tenants"
)

// DumpObject writes an object with the given key as text. Of a sealed one it writes what is
// in clear, and the rest if known has the keys, or else why it has not. known may be nil.
func DumpObject(ctx context.Context, w io.Writer, key string, raw []byte, known *tenants.Tenants) error {
	err := dumpObject(ctx, w, key, raw, known)
	if err != nil && errs.KindOf(err) == errs.Unavailable {
		_, err = fmt.Fprintf(w, "locked     %v\n", err)
	}
	return err
}

func dumpObject(ctx context.Context, w io.Writer, key string, raw []byte, known *tenants.Tenants) error {
	switch {
	case strings.HasPrefix(key, "packs/"):
		return pack.Dump(w, 0, raw)
	case strings.HasPrefix(key, pack.DomainPrefix):
		return dumpPack(ctx, w, key, raw, known)
	case strings.HasPrefix(key, "pins/"):
		return dumpPin(w, key, raw)
	case strings.HasPrefix(key, "forwards/"):
		f, err := forward.Decode(key, raw)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "forward %s\n%d slots of pack %s are in pack %s\n", key, len(f.Slots), f.From.Key(), f.To.Key())
		for _, s := range f.Slots {
			if err == nil {
				_, err = fmt.Fprintf(w, "%d bytes at %d: at %d\n", s.Len, s.Off, s.To)
			}
		}
		return err
	case boot.IsKey(key):
		return boot.Dump(w, raw)
	case strings.HasPrefix(key, "t/"):
		return dumpCommit(ctx, w, key, raw, known)
	case strings.HasPrefix(key, "gc/rounds/"), strings.HasPrefix(key, tenants.Prefix):
		return dumpJSON(w, raw)
	case strings.HasPrefix(key, "gc/"): // a line of text, written for its time
		_, err := w.Write(raw)
		return err
	}
	return errs.New(errs.Invalid, "%q is not the key of a glide object: those begin with packs/, d/, forwards/, pins/, tenants/, t/ or gc/", key)
}

// dumpPack writes a pack of a domain.
func dumpPack(ctx context.Context, w io.Writer, key string, raw []byte, known *tenants.Tenants) error {
	id, err := pack.ParseKey(key)
	if err != nil {
		return err
	}
	codec, locked := pack.Codec{}, error(nil)
	if known != nil {
		var h *pack.Hasher
		if h, locked = known.HasherOf(ctx, id.Domain); locked == nil {
			codec = h.Codec()
		}
	}
	err = codec.Dump(w, id.Domain, raw)
	return cmp.Or(locked, err)
}

// dumpCommit writes an object of a log.
func dumpCommit(ctx context.Context, w io.Writer, key string, raw []byte, known *tenants.Tenants) error {
	if known == nil {
		return commitlog.Dump(w, raw)
	}
	o, err := commitlog.Read(ctx, known.Keyed(nil), key, raw)
	if err != nil {
		_ = commitlog.Dump(w, raw) // what is in clear
		return err
	}
	return o.Dump(w)
}
