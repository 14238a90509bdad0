package api

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"reflect"

	"github.com/paraglide/glide/internal/errs"
)

// Blocks travel from the SSD of one host to another host in this form. All integers are
// little-endian.
//
//	0  4  "GPBL"
//	4  4  version, 1
//	8  4  size of each block, bytes: that of the request
//
// Then, for each block that the host has, in the order of the request:
//
//	0  4  number of the block in the request, from 0
//	4  …  the block, as a guest reads it
//
// The answer ends with:
//
//	0  4  ffffffff
//
// It has no checksum: the receiver holds each block against its hash.
const (
	// BlocksType is the media type of an answer with blocks.
	BlocksType = "application/vnd.glide.blocks"
	// MaxBlocks bounds the blocks of one request, and MaxBlockBytes their bytes.
	MaxBlocks     = 64
	MaxBlockBytes = 8 << 20

	blocksMagic   = "GPBL"
	blocksVersion = 1
	blocksHeader  = 12
	blocksEnd     = 0xffffffff

	// Bounds of a block's size, bytes.
	minBlock = 4 << 10
	maxBlock = 1 << 20
)

// BlocksRequest asks a host for blocks that its SSD tier may have.
type BlocksRequest struct {
	Tenant    string   `json:"tenant"`
	BlockSize uint64   `json:"block_size"` // bytes
	Hashes    []string `json:"hashes"`     // hexadecimal
}

func (r *BlocksRequest) check() error {
	if r.BlockSize < minBlock || r.BlockSize > maxBlock || r.BlockSize&(r.BlockSize-1) != 0 {
		return errs.New(errs.Invalid, "%d is not the size of a block: choose a power of two from 4K to 1M", r.BlockSize)
	}
	if n := uint64(len(r.Hashes)); n > MaxBlocks || n*r.BlockSize > MaxBlockBytes {
		return errs.New(errs.Invalid, "%d blocks of %d bytes: one request may ask for %d blocks and %d bytes", n, r.BlockSize, MaxBlocks, MaxBlockBytes)
	}
	return nil
}

// blockRoutes are what hosts ask each other while a guest reads.
var blockRoutes = []route{{
	method: http.MethodPost, path: "/v1/blocks", status: http.StatusOK, in: reflect.TypeFor[BlocksRequest](), serve: sendBlocks,
}}

func sendBlocks(s *server, w http.ResponseWriter, r *http.Request) error {
	var in BlocksRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	if err := in.check(); err != nil {
		return err
	}
	out := blocksWriter{w: w, size: uint32(in.BlockSize)}
	if err := s.Blocks(r.Context(), in, out.block); err != nil {
		if out.begun {
			return http.ErrAbortHandler // the answer has begun: cut it off
		}
		return err
	}
	return out.end()
}

// blocksWriter writes an answer with blocks.
type blocksWriter struct {
	w     http.ResponseWriter
	size  uint32
	begun bool
}

func (b *blocksWriter) begin() error {
	if b.begun {
		return nil
	}
	b.begun = true
	b.w.Header().Set("Content-Type", BlocksType)
	h := binary.LittleEndian.AppendUint32([]byte(blocksMagic), blocksVersion)
	_, err := b.w.Write(binary.LittleEndian.AppendUint32(h, b.size))
	return err
}

func (b *blocksWriter) block(i int, raw []byte) error {
	if err := b.begin(); err != nil {
		return err
	}
	if _, err := b.w.Write(binary.LittleEndian.AppendUint32(nil, uint32(i))); err != nil {
		return err
	}
	_, err := b.w.Write(raw)
	return err
}

// end ends the answer. If the other host does not take it, there is nobody to report to.
func (b *blocksWriter) end() error {
	if b.begin() == nil {
		_, _ = b.w.Write(binary.LittleEndian.AppendUint32(nil, blocksEnd))
	}
	return nil
}

// ReadBlocks reads the answer to a request. It calls got with each block, which got may
// keep, and the block's number. An error of got ends it and is returned.
func ReadBlocks(ctx context.Context, r io.Reader, in *BlocksRequest, got func(i int, raw []byte) error) error {
	var head [blocksHeader]byte
	if err := readBlocks(ctx, r, head[:]); err != nil {
		return err
	}
	version, size := binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[8:])
	switch {
	case string(head[:4]) != blocksMagic:
		return badBlocks("it is something else")
	case version != blocksVersion:
		return errs.New(errs.Unsupported, "the other host sends blocks in version %d of the format, this program reads version %d", version, blocksVersion)
	case uint64(size) != in.BlockSize:
		return badBlocks("it has blocks of %d bytes, not %d", size, in.BlockSize)
	}
	for next := uint32(0); ; {
		if err := readBlocks(ctx, r, head[:4]); err != nil {
			return err
		}
		i := binary.LittleEndian.Uint32(head[:])
		if i == blocksEnd {
			break
		}
		if i < next || i >= uint32(len(in.Hashes)) {
			return badBlocks("block %d of %d is not the next one", i, len(in.Hashes))
		}
		raw := make([]byte, size)
		if err := readBlocks(ctx, r, raw); err != nil {
			return err
		}
		if err := got(int(i), raw); err != nil {
			return err
		}
		next = i + 1
	}
	if _, err := io.ReadFull(r, head[:1]); err != io.EOF { // to the end, so that the connection can be used again
		return badBlocks("it goes on behind its end")
	}
	return nil
}

func readBlocks(ctx context.Context, r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		return badBlocks("it ends early")
	}
	return errs.New(errs.Unavailable, "the connection broke: %w", err)
}

func badBlocks(format string, args ...any) error {
	return errs.New(errs.Corrupt, "the other host's answer is wrong: "+format, args...)
}
