package section

import (
	"fmt"
	"io"
)

// Dump writes a section as text, for people.
func Dump(w io.Writer, section []byte) error {
	ranges, err := Decode(section)
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
