package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// chunk is the granularity of a fingerprint, in bytes.
const chunk = 128 << 10

// fingerprint is the checksum of each chunk of a disk, in order. A chunk of
// zeros has the zero checksum.
type fingerprint [][sha256.Size]byte

// sum is one checksum for the whole disk.
func (f fingerprint) sum() string {
	h := sha256.New()
	for _, s := range f {
		h.Write(s[:])
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:6])
}

// differ returns the chunks in which two disks differ.
func (f fingerprint) differ(g fingerprint) (chunks []int) {
	for i := range max(len(f), len(g)) {
		if i >= len(f) || i >= len(g) || f[i] != g[i] {
			chunks = append(chunks, i)
		}
	}
	return chunks
}

// open connects to a volume over NBD.
func (h *host) open(ctx context.Context, volume string) (*nbdclient.Client, error) {
	uri, err := h.uri(ctx, volume)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "nbd+unix" {
		return nil, fmt.Errorf("glide uri %s says %s, which is no unix socket", volume, uri)
	}
	c, err := nbdclient.Dial(ctx, "unix", u.Query().Get("socket"), nbdclient.Options{Export: strings.TrimPrefix(u.Path, "/")})
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", h.name, volume, err)
	}
	return c, nil
}

// fingerprint reads the whole volume.
func (h *host) fingerprint(ctx context.Context, volume string) (fingerprint, error) {
	c, err := h.open(ctx, volume)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	const piece, depth = 8 * chunk, 8
	zeros := make([]byte, chunk)
	f := make(fingerprint, 0, (c.Size()+chunk-1)/chunk)
	var window []<-chan nbdclient.Result
	var free [][]byte
	for off := uint64(0); off < c.Size() || len(window) > 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if off < c.Size() && len(window) < depth {
			b := make([]byte, 0, piece)
			if n := len(free); n > 0 {
				b, free = free[n-1], free[:n-1]
			}
			b = b[:min(piece, c.Size()-off)]
			window = append(window, c.Go(nbdclient.Request{Op: nbd.OpRead, Off: off, Data: b}))
			off += uint64(len(b))
			continue
		}
		r := <-window[0]
		window = window[1:]
		if r.Err != nil {
			return nil, fmt.Errorf("%s: read %s at %d: %w", h.name, volume, r.Request.Off, r.Err)
		}
		for b := r.Request.Data; len(b) > 0; b = b[min(chunk, len(b)):] {
			part := b[:min(chunk, len(b))]
			if bytes.Equal(part, zeros[:len(part)]) {
				f = append(f, [sha256.Size]byte{})
			} else {
				f = append(f, sha256.Sum256(part))
			}
		}
		free = append(free, r.Request.Data[:0])
	}
	return f, nil
}

// pattern is what the demo writes into a disk from outside: bytes that
// nobody else writes, at a place that is the disk's own.
type pattern struct {
	off  uint64
	data []byte
}

// patternOf is the pattern for the i-th of n forks. With a guest's disk it is in
// the tail behind the file system, otherwise spread over the disk.
func patternOf(name string, i, n int, size, tail uint64) pattern {
	start, room := size-tail, tail
	if tail == 0 {
		start, room = 0, size
	}
	slot := room / uint64(n+1) / 512 * 512
	data := make([]byte, min(300<<10, slot/2))
	for j := 0; j < len(data); j += sha256.Size {
		s := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(name), uint64(j)))
		copy(data[j:], s[:])
	}
	return pattern{off: start + uint64(i)*slot, data: data}
}

// chunks are those that the pattern touches.
func (p pattern) chunks() (c []int) {
	for i := p.off / chunk; i*chunk < p.off+uint64(len(p.data)); i++ {
		c = append(c, int(i))
	}
	return c
}

// write writes the pattern into a volume and flushes it to the host's disk.
func (h *host) write(ctx context.Context, volume string, p pattern) error {
	c, err := h.open(ctx, volume)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.Write(p.data, p.off, 0); err != nil {
		return fmt.Errorf("%s: write %s: %w", h.name, volume, err)
	}
	return c.Flush()
}

// has tells whether the volume holds the pattern.
func (h *host) has(ctx context.Context, volume string, p pattern) (bool, error) {
	b, err := h.read(ctx, volume, p.off, len(p.data))
	return bytes.Equal(b, p.data), err
}

func (h *host) read(ctx context.Context, volume string, off uint64, n int) ([]byte, error) {
	c, err := h.open(ctx, volume)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	b := make([]byte, min(uint64(n), c.Size()-off))
	if err := c.Read(b, off); err != nil {
		return nil, fmt.Errorf("%s: read %s: %w", h.name, volume, err)
	}
	return b, nil
}
