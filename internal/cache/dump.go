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
	size, table, err := readSlab(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	n := perSlab(size)
	fmt.Fprintf(w, "slab of %d slots of %d bytes, from byte %d on\n", n, size, slabBase(size))
	for i := range n {
		if h, length, ok := decodeEntry(table[i*entrySize(size):][:entrySize(size)]); ok {
			fmt.Fprintf(w, "%6d  %v  %d bytes\n", i, h, length)
		}
	}
	return nil
}
