package cache

import (
	"fmt"
	"io"
	"os"

	"github.com/paraglide/glide/internal/seal"
)

// DumpSlab writes the table of a slab file as text.
func DumpSlab(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	size, mark, table, err := readSlab(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	n := perSlab(size)
	entry := len(table) / n
	fmt.Fprintf(w, "slab of %d slots for blocks of up to %d bytes, from byte %d on\n", n, size, int64(slabHeader+len(table)+4095)&^4095)
	if mark != (seal.Mark{}) {
		fmt.Fprintf(w, "  sealed with root %d of domain %08x, %v\n", mark.Root, mark.Domain, mark.Suite)
	}
	for i := range n {
		h, length, ok := decodeEntry(table[i*entry:][:entry])
		if mark != (seal.Mark{}) {
			h, length, ok = decodeSealed(table[i*entry:][:entry], size)
		}
		if ok {
			fmt.Fprintf(w, "%6d  %v  %d bytes\n", i, h, length)
		}
	}
	return nil
}
