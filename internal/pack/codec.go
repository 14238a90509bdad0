package pack

import (
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/paraglide/glide/internal/errs"
)

// Compression is the setting by which slots are encoded. With any setting, a slot that
// gains too little is stored raw. Every slot names its encoding.
type Compression uint8

// The settings; zstd (at its fastest level) is the default.
const (
	CompressionZstd Compression = iota
	CompressionS2
	CompressionNone
)

var compressionNames = [...]string{CompressionZstd: "zstd", CompressionS2: "s2", CompressionNone: "none"}

// String returns the setting's name in flags and files.
func (c Compression) String() string { return compressionNames[c] }

// ParseCompression is the inverse of String. An unknown name is an errs.Invalid error.
func ParseCompression(name string) (Compression, error) {
	if i := slices.Index(compressionNames[:], name); i >= 0 {
		return Compression(i), nil
	}
	return 0, errs.New(errs.Invalid, "the compression %q is not known: there are zstd, s2 and none", name)
}

// Coders are pooled instead of shared, because each serves one goroutine at a time
// (measured: 1.5 MiB per encoder, 150 KiB per decoder). The garbage collector frees idle
// ones.
var (
	encoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(maxRawLen), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false)) // the slot has a checksum
		if err != nil {
			panic(err) // only wrong options cause an error
		}
		return e
	}}
	decoders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxRawLen), zstd.WithDecoderMaxMemory(maxRawLen), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			panic(err)
		}
		return d
	}}
)

// compress appends the encoded raw to dst. It does not test beforehand whether that pays:
// on incompressible data both encoders skip ahead at more than 4 GB/s (measured on the
// incompressible blocks of a Debian disk).
func (c Compression) compress(dst, raw []byte) ([]byte, Encoding) {
	switch c {
	case CompressionZstd:
		e := encoders.Get().(*zstd.Encoder)
		defer encoders.Put(e)
		return e.EncodeAll(raw, dst), EncodingZstd
	case CompressionS2:
		dst = slices.Grow(dst, s2.MaxEncodedLen(len(raw)))
		return dst[:len(dst)+len(s2.Encode(dst[len(dst):cap(dst)], raw))], EncodingS2
	default:
		return append(dst, raw...), EncodingRaw
	}
}

// overAlloc is the space after the output that the zstd decoder needs for its fastest
// loop, in bytes.
const overAlloc = 16

// expand decodes a payload to exactly rawLen bytes, in dst if that is large enough. It
// allocates no more than that and a few bytes.
func expand(dst, payload []byte, e Encoding, rawLen int) ([]byte, error) {
	dst = room(dst, rawLen)
	switch e {
	case EncodingRaw:
		dst = append(dst, payload...)
	case EncodingZstd:
		d := decoders.Get().(*zstd.Decoder)
		defer decoders.Put(d)
		var err error
		if dst, err = d.DecodeAll(payload, dst); err != nil {
			return nil, errs.New(errs.Corrupt, "its zstd payload is damaged: %w", err)
		}
	case EncodingS2:
		n, err := s2.DecodedLen(payload)
		if err == nil && n == rawLen {
			dst, err = s2.Decode(dst[:rawLen], payload)
		}
		if err != nil || n != rawLen {
			return nil, errs.New(errs.Corrupt, "its s2 payload is damaged (%d bytes instead of %d): %v", n, rawLen, err)
		}
	default:
		return nil, errs.New(errs.Unsupported, "its encoding is %d, which this release does not know; update Glide", uint8(e))
	}
	if len(dst) != rawLen {
		return nil, errs.New(errs.Corrupt, "its payload has %d raw bytes instead of %d", len(dst), rawLen)
	}
	return dst, nil
}

// room returns an empty slice with space for rawLen bytes and little more, so that a
// decoder cannot write far beyond.
func room(dst []byte, rawLen int) []byte {
	if cap(dst) < rawLen {
		return make([]byte, 0, rawLen+overAlloc)
	}
	return dst[:0:min(cap(dst), rawLen+overAlloc)]
}
