package inspect

import (
	"fmt"
	"io"
	"strings"

	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/forward"
	"github.com/paraglide/glide/internal/pack"
)

// DumpObject writes an object with the given key as text.
func DumpObject(w io.Writer, key string, raw []byte) error {
	switch {
	case strings.HasPrefix(key, "packs/"):
		return pack.Dump(w, 0, raw)
	case strings.HasPrefix(key, pack.DomainPrefix):
		id, err := pack.ParseKey(key)
		if err != nil {
			return err
		}
		return pack.Dump(w, id.Domain, raw)
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
		return commitlog.Dump(w, raw)
	case strings.HasPrefix(key, "gc/rounds/"):
		return dumpJSON(w, raw)
	case strings.HasPrefix(key, "gc/"): // a line of text, written for its time
		_, err := w.Write(raw)
		return err
	}
	return errs.New(errs.Invalid, "%q is not the key of a glide object: those begin with packs/, d/, forwards/, pins/, t/ or gc/", key)
}
