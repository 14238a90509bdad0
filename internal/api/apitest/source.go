package apitest

import (
	"bytes"
	"io"

	"github.com/paraglide/glide/internal/api"
)

// Full is the image of a disk of so many bytes that is full, in extents of 1 MiB.
func Full(size uint64) api.Source { return &full{size: size} }

type full struct{ pos, size uint64 }

// Size implements api.Source.
func (f *full) Size() uint64 { return f.size }

// Next implements api.Source.
func (f *full) Next() (api.Extent, error) {
	if f.pos == f.size {
		return api.Extent{}, io.EOF
	}
	e := api.Extent{Off: f.pos, Data: bytes.Repeat([]byte{7}, int(min(1<<20, f.size-f.pos)))}
	f.pos += uint64(len(e.Data))
	return e, nil
}
