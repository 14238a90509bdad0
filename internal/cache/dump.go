package cache

import (
	"fmt"
	"io"
	"os"
)

// DumpSlab writes the table of a slab file as text.
func DumpSlab(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	size, how, table, err := readSlab(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	n := perSlab(size)
	entry := len(table) / n
	fmt.Fprintf(w, "slab of %d slots for blocks of up to %d bytes, from byte %d on\n", n, size, int64(slabHeader+len(table)+4095)&^4095)
	if how != (form{}) {
		fmt.Fprintf(w, "  sealed with root %d of domain %08x, %v\n", how.mark.Root, how.mark.Domain, how.mark.Suite)
	}
	for i := range n {
		h, length, ok := decodeEntry(table[i*entry:][:entry])
		if how != (form{}) {
			h, length, ok = decodeSealed(table[i*entry:][:entry], size)
		}
		if ok {
			fmt.Fprintf(w, "%6d  %v  %d bytes\n", i, h, length)
		}
	}
	return nil
}
