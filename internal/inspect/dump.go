package inspect

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/paraglide/glide/internal/boot"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pinobject"
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
		p, err := pinobject.Decode(raw)
		if err != nil {
			return err
		}
		b, err := json.MarshalIndent(p, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "pin %s\n%s\n", key, b)
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
	return errs.New(errs.Invalid, "%q is not the key of a glide object: those begin with packs/, d/, pins/, t/ or gc/", key)
}
