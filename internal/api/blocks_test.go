package api

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// TestBlocksRefused: answers that are not what was asked for are refused, and none makes
// the asker take more memory than a block.
func TestBlocksRefused(t *testing.T) {
	in := BlocksRequest{Tenant: "t", BlockSize: 4096, Hashes: []string{"a", "b", "c"}}
	u32 := func(vs ...uint32) (b []byte) {
		for _, v := range vs {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
		return b
	}
	head := append([]byte("GPBL"), u32(1, 4096)...)
	block := func(i uint32) []byte { return append(u32(i), make([]byte, 4096)...) }
	end := u32(blocksEnd)
	read := func(parts ...[]byte) (n int, err error) {
		err = ReadBlocks(t.Context(), bytes.NewReader(bytes.Join(parts, nil)), &in, func(int, []byte) error { n++; return nil })
		return n, err
	}
	if n, err := read(head, block(0), block(2), end); err != nil || n != 2 {
		t.Errorf("a good answer: %d blocks, %v", n, err)
	}
	for what, parts := range map[string][][]byte{
		"nothing":                 {},
		"something else":          {[]byte("<html>"), make([]byte, 100)},
		"a newer version":         {[]byte("GPBL"), u32(2, 4096), end},
		"blocks of absurd length": {[]byte("GPBL"), u32(1, 0xfffffff0), block(0), end},
		"a number beyond":         {head, block(3), end},
		"a number twice":          {head, block(1), block(1), end},
		"out of order":            {head, block(2), block(0), end},
		"cut in a block":          {head, block(0)[:100]},
		"no end":                  {head, block(0)},
		"more behind the end":     {head, end, []byte{0}},
	} {
		if _, err := read(parts...); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
