package ingest

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"sync"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/pack"
	"github.com/zeebo/blake3"
)

// imageDigest identifies the content of a disk: its size, its block size, and the hash of
// every block that is not all zeros. It does not depend on where the blocks are stored.
type imageDigest struct{ h *blake3.Hasher }

func newImageDigest(size uint64, blockSize uint32) imageDigest {
	d := imageDigest{blake3.New()}
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], size)
	binary.LittleEndian.PutUint64(b[8:], uint64(blockSize))
	_, _ = d.h.Write(b[:])
	return d
}

func (d imageDigest) add(idx uint64, hash pack.Hash) {
	var b [40]byte
	binary.LittleEndian.PutUint64(b[:], idx)
	copy(b[8:], hash[:])
	_, _ = d.h.Write(b[:])
}

func (d imageDigest) String() string { return hex.EncodeToString(d.h.Sum(nil)[:16]) }

// blockSource cuts an image into blocks. It reads each block once, in order.
func blockSource(src api.Source, blockSize uint64, read *uint64) flush.Source {
	return func(ctx context.Context, fn func(flush.Change) error) error {
		var cur []byte
		var idx uint64
		emit := func() error {
			if cur == nil {
				return nil
			}
			raw := cur
			cur = nil
			return fn(flush.Change{First: idx, Count: 1, Raw: raw})
		}
		next := uint64(0)
		for {
			e, err := src.Next()
			if errors.Is(err, io.EOF) {
				return emit()
			}
			if err != nil {
				return err
			}
			if e.Data == nil {
				continue
			}
			if e.Off < next || e.Off+uint64(len(e.Data)) > src.Size() {
				return errs.New(errs.Invalid, "the extents of the image are out of order or reach beyond its end")
			}
			next = e.Off + uint64(len(e.Data))
			*read += uint64(len(e.Data))
			for data, off := e.Data, e.Off; len(data) > 0; {
				if cur != nil && off/blockSize != idx {
					if err := emit(); err != nil {
						return err
					}
				}
				if cur == nil {
					cur, idx = flush.NewBlock(int(blockSize)), off/blockSize
				}
				n := copy(cur[off%blockSize:], data)
				data, off = data[n:], off+uint64(n)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
}

// DigestOf returns the digest of an image. It reads all of it and stores nothing.
func DigestOf(ctx context.Context, h *pack.Hasher, src api.Source, size uint64, read *uint64) (string, error) {
	h, err := h.Renewed(ctx)
	if err != nil {
		return "", err
	}
	d := newImageDigest(size, disk.DefaultBlockSize)
	err = blockSource(src, disk.DefaultBlockSize, read)(ctx, func(c flush.Change) error {
		if !isZero(c.Raw) {
			d.add(c.First, h.Sum(c.Raw))
		}
		return nil
	})
	return d.String(), err
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// Importer folds an image into packs and a block map.
type Importer struct {
	Session     *flush.Session
	Index       flush.Index
	Hasher      *pack.Hasher
	Pages       *blockmap.Source
	Limits      pack.Limits
	Compression pack.Compression
	Keep        func(pack.Hash, []byte)
	KeepPage    func(pack.Hash, []byte)
}

// Run folds and uploads the image, and returns its digest. It adds the bytes that it
// reads to read.
func (im *Importer) Run(ctx context.Context, src api.Source, size uint64, read *uint64) (flush.Result, string, error) {
	blocks := (size + disk.DefaultBlockSize - 1) / disk.DefaultBlockSize
	base, err := blockmap.New(im.Pages, blockmap.Root{}, blocks)
	if err != nil {
		return flush.Result{}, "", err
	}
	digest := newImageDigest(size, disk.DefaultBlockSize)
	res, err := flush.Fold(ctx, im.Session, base, base.Edit(), blockSource(src, disk.DefaultBlockSize, read), flush.Options{
		Hasher: im.Hasher, Index: im.Index, Limits: im.Limits, Compression: im.Compression, Page: im.KeepPage,
		Folded: func(idx uint64, hash pack.Hash, raw []byte) {
			digest.add(idx, hash)
			if im.Keep != nil {
				im.Keep(hash, raw)
			}
		},
	})
	return res, digest.String(), err
}

// MemoryIndex is a dedup index for one import without a host.
type MemoryIndex struct {
	mu   sync.Mutex
	Refs map[pack.Hash]pack.Ref
}

// Block implements flush.Index.
func (x *MemoryIndex) Block(h pack.Hash) (pack.Ref, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.Refs[h], nil
}

// AddBlocks implements flush.Index.
func (x *MemoryIndex) AddBlocks(refs []pack.Ref) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, r := range refs {
		x.Refs[r.Hash] = r
	}
	return nil
}

// ForgetBlock implements flush.Index.
func (x *MemoryIndex) ForgetBlock(h pack.Hash) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.Refs, h)
	return nil
}

// NoPages is a page source without pages: an import starts with an empty map.
type NoPages struct{}

// Page always returns an error.
func (NoPages) Page(context.Context, pack.Ref) ([]byte, error) {
	return nil, errs.New(errs.Internal, "an import needed a page of an older map")
}
