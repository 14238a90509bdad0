package wal

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/extent"
)

func benchLog(b *testing.B) (*Pool, *testLog) {
	var n uint64
	p, err := Open(Options{FS: vfs.Default, Dir: b.TempDir(), Local: local, Rand: func() uint64 { n++; return n }})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Close)
	return p, newTestLog(p, 0)
}

func BenchmarkAppend(b *testing.B) {
	_, l := benchLog(b)
	f := frame(make([]byte, 4096))
	for i := 0; b.Loop(); i++ {
		if _, err := l.Append([]uint64{uint64(i%40000) << 12}, [][]byte{f}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead reads what was just written in two ways: as for a guest, and verified, as
// for a copy.
func BenchmarkRead(b *testing.B) {
	for _, record := range []int{4 << 10, 1 << 20} {
		for _, n := range []int{4 << 10, 128 << 10} {
			p, l := benchLog(b)
			tree := extent.New()
			const size = 256 << 20
			for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(size / record) {
				off := uint64(i * record)
				w, err := l.Append([]uint64{off}, [][]byte{frame(make([]byte, record))})
				if err != nil {
					b.Fatal(err)
				}
				tree.Set(off, off+uint64(record), w[0].Place, nil)
			}
			read := func(how func([]byte, uint64, []extent.Extent) error) func(*testing.B) {
				return func(b *testing.B) {
					buf, r := make([]byte, n), rand.New(rand.NewPCG(2, 2))
					var ext []extent.Extent
					for b.Loop() {
						off := uint64(r.IntN(size/n) * n)
						ext = tree.Range(ext[:0], off, off+uint64(n))
						if err := how(buf, off, ext); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			name := fmt.Sprintf("%dK of records of %dK", n>>10, record>>10)
			b.Run(name+"/served", read(p.ServeExtents))
			b.Run(name+"/verified", read(p.ReadExtents))
		}
	}
}
