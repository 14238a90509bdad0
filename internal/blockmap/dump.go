package blockmap

import (
	"fmt"
	"io"
)

// Dump writes a page as text.
func Dump(w io.Writer, raw []byte) error {
	p, err := parsePage(raw)
	if err != nil {
		return err
	}
	what := "pages"
	if p.Level() == 0 {
		what = "blocks"
	}
	_, err = fmt.Fprintf(w, "map page: version %d, level %d, %d %s in %d packs, %d bytes\n",
		p[2], p.Level(), p.Len(), what, p.packs(), len(p))
	for i := 0; i < p.packs() && err == nil; i++ {
		_, err = fmt.Fprintf(w, "pack %2d  %s\n", i, p.packID(i).Key())
	}
	for slot, ref := range p.All() {
		if err != nil {
			break
		}
		_, err = fmt.Fprintf(w, "slot %2d  %s  pack %2d  %d+%d\n", slot, ref.Hash, p.entry(slot)[40], ref.Off, ref.Len)
	}
	return err
}
