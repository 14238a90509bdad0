package commitlog

import (
	"encoding/json"
	"fmt"
	"io"
)

// Dump writes an object of a commit log as text, for people.
func Dump(w io.Writer, raw []byte) error {
	o, err := Decode(raw)
	if err != nil {
		return err
	}
	var state any = &o.State
	if o.Bare() {
		state = &o.State.Identity
	}
	text, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	flags := ""
	if o.Released {
		flags += ", released"
	}
	if o.Tombstone {
		flags += ", tombstone"
	}
	_, err = fmt.Fprintf(w, "commit log object: version %d, %s%s\ngeneration %s\nmark       %s\nhash       %s\nahead      %d\nstate      %s\n",
		o.version(), o.Kind, flags, o.Generation, o.Mark, o.Hash, o.Ahead, text)
	if err != nil || len(o.Data) == 0 {
		return err
	}
	return dumpData(w, o.Data)
}

func dumpData(w io.Writer, section []byte) error {
	ranges, err := DecodeData(section)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "data       %d bytes, %d ranges\n", len(section), len(ranges)); err != nil {
		return err
	}
	for _, r := range ranges {
		what, place := "data", ""
		switch {
		case r.Block != nil:
			what, place = "block", fmt.Sprintf(" %s in %s, %d+%d", r.Block.Hash, r.Block.Pack.Key(), r.Block.Off, r.Block.Len)
		case r.Data == nil:
			what = "zeros"
		}
		if _, err := fmt.Fprintf(w, "  %-5s %d+%d%s\n", what, r.Off, r.Len, place); err != nil {
			return err
		}
	}
	return nil
}
