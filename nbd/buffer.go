package nbd

import (
	"math/bits"
	"sync"
)

// Buffers come in sizes of 8 KiB times a power of two, up to what the largest
// request or reply takes, each with a little more so that data of a round size
// fits together with its header.
const (
	smallestBuffer = 8 << 10
	bufferSlack    = 512
	bufferClasses  = 13 // 8 KiB to 32 MiB
)

// bufferPools keeps buffers that are not in use, by class. The garbage
// collector empties them when nobody has asked for a while.
var bufferPools [bufferClasses]sync.Pool

// buffer is memory on loan from a pool. Its length never changes.
type buffer struct {
	b     []byte
	class int
}

// getBuffer returns a buffer of at least n bytes, with arbitrary content.
func getBuffer(n int) *buffer {
	class := 0
	if n > smallestBuffer+bufferSlack {
		class = bits.Len(uint((n - bufferSlack - 1) / smallestBuffer))
	}
	if b, ok := bufferPools[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{b: make([]byte, smallestBuffer<<class+bufferSlack), class: class}
}

// release gives b back. It may be nil.
func (b *buffer) release() {
	if b != nil {
		bufferPools[b.class].Put(b)
	}
}
