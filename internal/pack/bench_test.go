package pack

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/seal"
)

const benchBlock = 128 << 10

// benchBlocks are 128 KiB blocks as disks have them: those of the image that
// GLIDE_BENCH_IMAGE names (every 16th block that is not zero), or else this program
// itself, which is machine code and tables.
var benchBlocks = sync.OnceValue(func() [][]byte {
	name, step := os.Getenv("GLIDE_BENCH_IMAGE"), int64(16)
	if name == "" {
		step = 1
		var err error
		if name, err = os.Executable(); err != nil {
			panic(err)
		}
	}
	file, err := os.Open(name)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	var blocks [][]byte
	zero := make([]byte, benchBlock)
	for off := int64(0); len(blocks) < 4096; off += step * benchBlock {
		block := make([]byte, benchBlock)
		if _, err := file.ReadAt(block, off); err == io.EOF {
			break
		} else if err != nil {
			panic(err)
		}
		if !bytes.Equal(block, zero) {
			blocks = append(blocks, block)
		}
	}
	return blocks
})

func BenchmarkEncodeSlot(b *testing.B) {
	blocks := benchBlocks()
	for _, c := range settings {
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(benchBlock)
			b.ReportAllocs()
			dst := make([]byte, 0, maxSlotLen)
			stored, i := 0, 0
			for b.Loop() {
				dst = EncodeSlot(dst[:0], KindBlock, blocks[i%len(blocks)], c)
				stored += len(dst)
				i++
			}
			b.ReportMetric(float64(i)*benchBlock/float64(stored), "ratio")
		})
	}
}

func BenchmarkDecodeSlot(b *testing.B) {
	blocks := benchBlocks()
	for _, c := range settings {
		slots := make([][]byte, len(blocks))
		for i, block := range blocks {
			slots[i] = EncodeSlot(nil, KindBlock, block, c)
		}
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(benchBlock)
			b.ReportAllocs()
			dst := make([]byte, benchBlock)
			i := 0
			for b.Loop() {
				var err error
				if dst, err = DecodeSlot(dst, slots[i%len(slots)], benchBlock); err != nil {
					b.Fatal(err)
				}
				i++
			}
		})
	}
}

func BenchmarkSum(b *testing.B) {
	h := NewHasher("tenant")
	for _, n := range []int{4 << 10, 128 << 10} {
		b.Run(fmt.Sprintf("%dK", n>>10), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			block := benchBlocks()[0][:n]
			for b.Loop() {
				h.Sum(block)
			}
		})
	}
}

// BenchmarkPack builds whole packs as an import does: hash, encode, build.
func BenchmarkPack(b *testing.B) {
	blocks := benchBlocks()
	h := NewHasher("tenant")
	builder := NewBuilder(0, nonce, Limits{})
	b.SetBytes(DefaultBlocks * benchBlock)
	b.ReportAllocs()
	slot := make([]byte, 0, maxSlotLen)
	i := 0
	for b.Loop() {
		builder.Reset(0, nonce)
		for !builder.Full() {
			block := blocks[i%len(blocks)]
			slot = EncodeSlot(slot[:0], KindBlock, block, CompressionZstd)
			builder.AddBlock(h.Sum(block), slot)
			i++
		}
		builder.Finish()
	}
}

// BenchmarkSealed compares sealed slots with plain ones, block by block in turns, so that a
// busy machine slows both: what a fold does, hash and encode, and what a read does, decode
// and hash.
func BenchmarkSealed(b *testing.B) {
	blocks := benchBlocks()
	plain := NewHasher("tenant")
	for _, how := range []Compression{CompressionZstd, CompressionNone} {
		for _, suite := range suites {
			sealed := NewSealedHasher(domainOf(b, home, suite, 1))
			slot, dst := make([]byte, 0, maxSlotLen+seal.MaxOverhead), make([]byte, benchBlock)
			encode := func(h *Hasher, block []byte) Ref {
				sum := h.Sum(block)
				slot = h.Codec().EncodeSlot(slot[:0], KindBlock, sum, block, how)
				return Ref{Hash: sum, Pack: ID{Domain: h.domain()}, Len: uint32(len(slot))}
			}
			inTurns := func(name string, prepare, work func(h *Hasher, block []byte)) {
				b.Run(fmt.Sprintf("%s/%s/%s", name, how, suite), func(b *testing.B) {
					var took [2]time.Duration
					n := 0
					for ; b.Loop(); n++ {
						for turn := range 2 {
							i := (n + turn) % 2
							h := []*Hasher{plain, sealed}[i]
							prepare(h, blocks[n%len(blocks)])
							began := time.Now()
							work(h, blocks[n%len(blocks)])
							took[i] += time.Since(began)
						}
					}
					b.ReportMetric(float64(took[0].Nanoseconds())/float64(n), "plain-ns")
					b.ReportMetric(float64(took[1].Nanoseconds())/float64(n), "sealed-ns")
					b.ReportMetric(float64(took[0])/float64(took[1]), "speed")
				})
			}
			inTurns("encode", func(*Hasher, []byte) {}, func(h *Hasher, block []byte) { encode(h, block) })
			var ref Ref
			inTurns("open", func(h *Hasher, block []byte) { ref = encode(h, block) }, func(h *Hasher, _ []byte) {
				if _, err := Open(h, ref, slot, dst, benchBlock); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}
