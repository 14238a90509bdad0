package host

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"sync"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/pack"
	"github.com/zeebo/blake3"
)

// imageDigest identifies the content of a disk: its size and the hash of every
// block that is not all zeros. Where the blocks are stored has no part in it.
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

// blockSource cuts an image into blocks, each read once and in order.
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
				return errs.New(errs.Invalid, "the image's pieces are out of order or reach beyond its end")
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

// digestOf reads a whole image without storing anything.
func digestOf(ctx context.Context, h *pack.Hasher, src api.Source, size uint64, read *uint64) (string, error) {
	d := newImageDigest(size, defaultBlockSize)
	err := blockSource(src, defaultBlockSize, read)(ctx, func(c flush.Change) error {
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

// importer folds an image.
type importer struct {
	session     *flush.Session
	index       flush.Index
	hasher      *pack.Hasher
	pages       *blockmap.Source
	limits      pack.Limits
	compression pack.Compression
	keep        func(pack.Hash, []byte)
	keepPage    func(pack.Hash, []byte)
}

func (im *importer) run(ctx context.Context, src api.Source, size uint64, read *uint64) (flush.Result, string, error) {
	blocks := (size + defaultBlockSize - 1) / defaultBlockSize
	base, err := blockmap.New(im.pages, blockmap.Root{}, blocks)
	if err != nil {
		return flush.Result{}, "", err
	}
	digest := newImageDigest(size, defaultBlockSize)
	res, err := flush.Fold(ctx, im.session, base, base.Edit(), blockSource(src, defaultBlockSize, read), flush.Options{
		Hasher: im.hasher, Index: im.index, Limits: im.limits, Compression: im.compression, Page: im.keepPage,
		Folded: func(idx uint64, hash pack.Hash, raw []byte) {
			digest.add(idx, hash)
			if im.keep != nil {
				im.keep(hash, raw)
			}
		},
	})
	return res, digest.String(), err
}

// memoryIndex is a dedup index for one import without a host.
type memoryIndex struct {
	mu   sync.Mutex
	refs map[pack.Hash]pack.Ref
}

func (x *memoryIndex) Block(h pack.Hash) (pack.Ref, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.refs[h], nil
}

func (x *memoryIndex) AddBlocks(refs []pack.Ref) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, r := range refs {
		x.refs[r.Hash] = r
	}
	return nil
}

func (x *memoryIndex) ForgetBlock(h pack.Hash) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.refs, h)
	return nil
}

// noPages loads nothing: an import begins with an empty map.
type noPages struct{}

func (noPages) Page(context.Context, pack.Ref) ([]byte, error) {
	return nil, errs.New(errs.Internal, "an import looked for a page of an older map")
}
