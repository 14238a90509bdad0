package cache

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/pack"
)

// TestDomainsAreApart: blocks are fetched from the packs of their domain, together only
// with others of the same pack, though packs of two domains differ in nothing else.
func TestDomainsAreApart(t *testing.T) {
	s := newStock(t, 4)
	obj, err := s.store.Get(context.Background(), s.key)
	if err != nil {
		t.Fatal(err)
	}
	other := s.refs[0].Pack
	other.Domain = 0x2a
	if err := s.store.Put(context.Background(), other.Key(), obj); err != nil {
		t.Fatal(err)
	}
	for i := range 4 { // the first and the third stay in domain 0
		if i%2 == 1 {
			s.refs[i].Pack = other
		}
	}
	sorted := slices.Clone(s.refs)
	rand.Shuffle(len(sorted), func(i, j int) { sorted[i], sorted[j] = sorted[j], sorted[i] })
	slices.SortFunc(sorted, inPacks)
	if want := []pack.Ref{s.refs[0], s.refs[2], s.refs[1], s.refs[3]}; !slices.Equal(sorted, want) {
		t.Errorf("in packs they are %v, want %v", sorted, want)
	}
	if n := together(sorted[1:], maxTogether); n != 1 {
		t.Errorf("one request is for %d blocks, in two domains", n)
	}
	_, d := s.open(t, vfs.NewMem(), 4<<20, 1<<30)
	n, err := d.Bring(context.Background(), s.refs, size, func(context.Context, int64) error { return nil })
	if err != nil || n != 4 {
		t.Fatalf("%d blocks, %v", n, err)
	}
	for i := range s.refs {
		s.want(t, d, i)
	}
}

// noPages is a host without pages of its own.
type noPages struct{}

func (noPages) Page(pack.Hash) ([]byte, error)  { return nil, nil }
func (noPages) AddPage(pack.Hash, []byte) error { return nil }

// pageSink puts pages into a pack.
type pageSink struct{ b *pack.Builder }

func (s pageSink) AddPage(_ context.Context, hash pack.Hash, page []byte) (pack.Ref, error) {
	return s.b.AddPage(hash, pack.EncodeSlot(nil, pack.KindPage, page, pack.CompressionZstd)), nil
}

// TestPagesOfDomains: what was fetched of a pack does not serve another domain, and pages
// that name domains may be longer than others.
func TestPagesOfDomains(t *testing.T) {
	s := newStock(t, 0)
	c, _ := s.open(t, vfs.NewMem(), 4<<20, 1<<30)
	pages := c.Pages(noPages{}).For(s.hasher)
	sink := pageSink{pack.NewBuilder(0x2a, [12]byte{1}, pack.Limits{})}
	sink.b.Seal()
	m, err := blockmap.New(blockmap.NewPageCache(1<<20).Source(pages, s.hasher), blockmap.Root{}, 64)
	if err != nil {
		t.Fatal(err)
	}
	edit := m.Edit()
	for i := range uint64(64) { // the longest page that there is
		ref := pack.Ref{Hash: pack.Hash{byte(i + 1)}, Pack: pack.ID{Domain: uint32(i), Nonce: [12]byte{byte(i)}}, Len: 1}
		if err := edit.Set(i, ref); err != nil {
			t.Fatal(err)
		}
	}
	root, err := edit.Publish(context.Background(), sink)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.Put(context.Background(), sink.b.Seal().Key(), bytes.Clone(sink.b.Finish())); err != nil {
		t.Fatal(err)
	}
	if page, err := pages.Page(context.Background(), root.Ref); err != nil || len(page) != blockmap.MaxPageSize {
		t.Fatalf("%d bytes, %v", len(page), err)
	}
	elsewhere := root.Ref
	elsewhere.Pack.Domain = 0
	if _, err := pages.Page(context.Background(), elsewhere); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a page of another domain: %v", err)
	}
}
