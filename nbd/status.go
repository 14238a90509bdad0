package nbd

import (
	"fmt"

	"github.com/paraglide/glide/nbd/internal/wire"
)

// The metadata context that every export has.
const baseAllocation = "base:allocation"

const (
	// maxDescriptors bounds the extents of one context in a reply. A client asks
	// again from where the reply ended.
	maxDescriptors = 64 << 10
	// The device is asked for stretches of the range that begin small and double,
	// so that neither a request for one extent costs a look at them all, nor
	// does a range full of small ones take much memory. 256 MiB have at most
	// 64 Ki extents of a page.
	firstStretch = 1 << 20
	lastStretch  = 256 << 20

	maxStatusChunk = wire.ChunkHeaderSize + 4 + 8*maxDescriptors
)

// blockStatus makes the reply to a BLOCK_STATUS: one chunk for each selected
// context. The reply lies in buf, which there is even with an error.
func (c *conn) blockStatus(req wire.Request) (buf *buffer, reply []byte, err error) {
	limit := maxDescriptors
	if req.Flags&wire.CmdFlagReqOne != 0 {
		limit = 1
	}
	size := maxRefusal
	runs := make([][]Extent, len(c.contexts))
	for i, context := range c.contexts {
		if runs[i], err = extents(c.dev, context, req.Offset, uint64(req.Length), limit); err != nil {
			return getBuffer(size), nil, err
		}
		size += wire.ChunkHeaderSize + 4 + 8*len(runs[i])
	}
	buf = getBuffer(size)
	reply = buf.b[:0]
	for i := range runs {
		var flags uint16
		if i == len(runs)-1 {
			flags = wire.ChunkFlagDone
		}
		reply = wire.AppendBlockStatus(reply, flags, req.Cookie, uint32(i+1), len(runs[i]))
		for _, e := range runs[i] {
			// The whole range is less than 4 GiB long.
			reply = wire.AppendDescriptor(reply, wire.Descriptor{Length: uint32(e.Length), Flags: e.Flags})
		}
	}
	return buf, reply, nil
}

// extents returns the first runs of the range, at most limit of them, each as
// long as it is within the range.
func extents(dev *guard, context string, off, length uint64, limit int) ([]Extent, error) {
	var runs []Extent
	// One more than limit, so that the last is known to be whole.
	for stretch := uint64(firstStretch); length > 0 && len(runs) <= limit; stretch = min(2*stretch, lastStretch) {
		n := min(stretch, length)
		known := len(runs)
		all, err := dev.extents(runs, context, off, n)
		if err != nil {
			return nil, err
		}
		runs = all[:known]
		covered := uint64(0)
		for _, e := range all[known:] {
			if e.Length == 0 || e.Length > n-covered {
				return nil, fmt.Errorf("the device's extents do not fit %d bytes at %d", n, off)
			}
			covered += e.Length
			if last := len(runs) - 1; last >= 0 && runs[last].Flags == e.Flags {
				runs[last].Length += e.Length
			} else {
				runs = append(runs, e)
			}
		}
		if covered != n {
			return nil, fmt.Errorf("the device's extents cover %d of %d bytes at %d", covered, n, off)
		}
		off, length = off+n, length-n
	}
	return runs[:min(limit, len(runs))], nil
}
