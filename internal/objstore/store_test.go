package objstore_test

import (
	"fmt"
	"testing"

	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/objstore/objstoretest"
	"github.com/paraglide/glide/internal/objstore/s3test"
	"github.com/paraglide/glide/internal/pack"
)

// A store carries the greatest pack, or this does not compile.
var _ [objstore.MaxObject - pack.MaxObject]struct{}

func open(t *testing.T, url string, opts objstore.Options) objstore.Store {
	t.Helper()
	s, err := objstore.Open(t.Context(), url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMemory(t *testing.T) {
	t.Run("bare", func(t *testing.T) {
		objstoretest.Conformance(t, func(*testing.T) objstore.Store { return objstore.NewMem(objstore.Clock{}) })
	})
	t.Run("opened", func(t *testing.T) {
		objstoretest.Conformance(t, func(t *testing.T) objstore.Store { return open(t, "mem://", objstore.Options{}) })
	})
}

func TestFile(t *testing.T) {
	objstoretest.Conformance(t, func(t *testing.T) objstore.Store {
		return open(t, "file://"+t.TempDir()+"/new/store", objstore.Options{})
	})
}

func TestS3(t *testing.T) {
	url, _ := s3test.Start(t)
	n := 0
	objstoretest.Conformance(t, func(t *testing.T) objstore.Store {
		n++
		return open(t, s3test.At(url, fmt.Sprintf("conformance/%d", n)), objstore.Options{})
	})
}

// benchStores are stores to measure, opened as a host does.
func benchStores(b *testing.B) map[string]objstore.Store {
	url, _ := s3test.Start(b)
	stores := make(map[string]objstore.Store)
	for name, url := range map[string]string{"file": "file://" + b.TempDir(), "s3": url, "mem": "mem://"} {
		s, err := objstore.Open(b.Context(), url, objstore.Options{})
		if err != nil {
			b.Fatal(err)
		}
		stores[name] = s
	}
	return stores
}

// BenchmarkPut uploads packs of the usual size.
func BenchmarkPut(b *testing.B) {
	data := make([]byte, 3<<20)
	for name, s := range benchStores(b) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for i := 0; b.Loop(); i++ {
				if err := s.Put(b.Context(), fmt.Sprintf("packs/%02x/%d", i%256, i%32), data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPutIfAbsent makes commits.
func BenchmarkPutIfAbsent(b *testing.B) {
	data := make([]byte, 1<<10)
	for name, s := range benchStores(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := s.PutIfAbsent(b.Context(), fmt.Sprintf("log/%d/%d/%d", b.N, i/1000, i), data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkGetRange reads blocks of 128 KiB.
func BenchmarkGetRange(b *testing.B) {
	const block = 128 << 10
	for name, s := range benchStores(b) {
		if err := s.Put(b.Context(), "pack", make([]byte, 25*block)); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(block)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.GetRange(b.Context(), "pack", int64(i%25)*block, block); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
