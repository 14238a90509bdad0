package e2e

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// peersImage is the size of the image that hosts fetch from each other.
const peersImage = 64 << 20

// importer is a host that has imported an image and has all blocks of it on its SSD.
func importer(t *testing.T, store string, flags ...string) (*daemon, []byte) {
	t.Helper()
	data := pattern(peersImage, 7)
	path := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(path, data, 0o600))
	a := newDaemon(t, store, flags...)
	a.start()
	a.do("import", path, "image")
	return a, data
}

// readsWhole reads an export in pieces of 1 MiB and compares it with what it must have.
func (d *daemon) readsWhole(export string, want []byte) {
	d.tb.Helper()
	c := d.dial(export)
	defer c.Close()
	got := make([]byte, 1<<20)
	for off := 0; off < len(want); off += len(got) {
		must(d.tb, c.Read(got, uint64(off)))
		if !bytes.Equal(got, want[off:off+len(got)]) {
			d.tb.Fatalf("%s has other bytes at %d than were imported", export, off)
		}
	}
}

func (d *daemon) stats() (s api.Stats) {
	d.tb.Helper()
	d.json(&s, "stats")
	return s
}

// TestBlocksFromPeers: a host that forks the image of another one reads it from that
// host's SSD if both permit that, and from the store if one of them does not.
func TestBlocksFromPeers(t *testing.T) {
	for _, c := range []struct{ a, b string }{{"on", "on"}, {"on", "off"}, {"off", "on"}} {
		t.Run("home "+c.a+" fork "+c.b, func(t *testing.T) {
			store := "file://" + t.TempDir()
			a, data := importer(t, store, "--peers", c.a)
			b := newDaemon(t, store, "--peers", c.b)
			b.start()
			b.do("fork", "image", "vm")
			before := b.stats()
			b.readsWhole("vm", data)
			sb, sa := b.stats(), a.stats()
			down := sb.BytesDown - before.BytesDown
			t.Logf("%d bytes from the store, %d from the other host, which sent %d", down, sb.Peers.FetchedBytes, sa.Peers.ServedBytes)
			if c.a == "on" && c.b == "on" {
				if down > peersImage/10 || sb.Peers.FetchedBytes < peersImage*9/10 || sa.Peers.ServedBytes < sb.Peers.FetchedBytes || sa.Peers.ServedBytes > peersImage*11/10 {
					t.Errorf("it did not come from the other host")
				}
			} else if down < peersImage || sb.Peers.FetchedBytes != 0 || sa.Peers.ServedBytes != 0 {
				t.Errorf("it did not come from the store")
			}
			if sb.Peers.BadBlocks != 0 {
				t.Errorf("%d blocks did not match", sb.Peers.BadBlocks)
			}
		})
	}
}

// TestPeersThatHang: the owner's address leads to somebody who accepts and says nothing,
// or who says something else. The guest reads right, and waits once.
func TestPeersThatHang(t *testing.T) {
	for what, says := range map[string]string{"silence": "", "something else": "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"} {
		t.Run(what, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			defer func() { _ = l.Close() }()
			var calls atomic.Int64
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					calls.Add(1)
					_, _ = c.Write([]byte(says))
					defer func() { _ = c.Close() }()
				}
			}()
			store := "file://" + t.TempDir()
			_, data := importer(t, store, "--peers", "on", "--advertise", "tcp:"+l.Addr().String())
			b := newDaemon(t, store, "--peers", "on", "--prefetch", "off")
			b.start()
			b.do("fork", "image", "vm", "--lazy")
			began := time.Now()
			b.readsWhole("vm", data[:16<<20])
			took := time.Since(began)
			t.Logf("16 MiB took %v, with %d connections to the other host", took, calls.Load())
			if calls.Load() == 0 {
				t.Error("the other host was not asked")
			}
			if took > 5*time.Second {
				t.Errorf("the reads took %v", took)
			}
			if s := b.stats(); s.Peers.FetchedBytes != 0 {
				t.Errorf("%d bytes came from it", s.Peers.FetchedBytes)
			}
		})
	}
}
