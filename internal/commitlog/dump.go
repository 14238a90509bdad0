package commitlog

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/paraglide/glide/internal/commitlog/internal/frame"
	"github.com/paraglide/glide/internal/commitlog/internal/section"
	"github.com/paraglide/glide/internal/seal"
)

// Dump writes a plain object of a commit log as text, for people; of a sealed one, what
// it says in clear, and returns seal.ErrLocked.
func Dump(w io.Writer, raw []byte) error {
	o, err := Decode(raw)
	if errors.Is(err, seal.ErrLocked) {
		h, herr := DecodeHeader(raw)
		if herr != nil {
			return herr
		}
		return cmp.Or(h.dumpHeader(w, max(frame.Sealed, h.version())), err)
	}
	if err != nil {
		return err
	}
	return o.Dump(w)
}

// Dump writes the object as text, for people.
func (o *Object) Dump(w io.Writer) error {
	var state any = &o.State
	if o.Bare() {
		state = &o.State.Identity
	}
	text, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	if err := o.dumpHeader(w, o.version()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "state      %s\n", text)
	if err != nil || len(o.Data) == 0 {
		return err
	}
	return section.Dump(w, o.Data)
}

func (o *Object) dumpHeader(w io.Writer, version uint16) error {
	flags := ""
	if o.Released {
		flags += ", released"
	}
	if o.Tombstone {
		flags += ", tombstone"
	}
	_, err := fmt.Fprintf(w, "commit log object: version %d, %s%s\ngeneration %s\nmark       %s\nhash       %s\nahead      %d\n",
		version, o.Kind, flags, o.Generation, o.Mark, o.Hash, o.Ahead)
	return err
}
