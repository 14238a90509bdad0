package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/paraglide/glide/nbd/nbdclient"
)

// TestThreeHundredConnections: 300 connections at once, to one volume and to as many
// volumes, each write and read back what is theirs.
func TestThreeHundredConnections(t *testing.T) {
	const conns = 300
	d := newDaemon(t, "")
	d.start()
	d.do("create", "one", "--size", "1G")
	d.do("fork", "one", "many", "-n", fmt.Sprint(conns))
	for what, export := range map[string]func(i int) string{
		"one":  func(int) string { return "one" },
		"many": func(i int) string { return fmt.Sprintf("many-%d", i+1) },
	} {
		clients := make([]*nbdclient.Client, conns)
		eight(t, conns, func(i int) (err error) {
			clients[i], err = nbdclient.Dial(context.Background(), "unix", d.nbd(), nbdclient.Options{Export: export(i)})
			return err
		})
		const size = 64 << 10
		eight(t, conns, func(i int) error {
			return errors.Join(clients[i].Write(pattern(size, i+1), uint64(i)*size, 0), clients[i].Flush())
		})
		eight(t, conns, func(i int) error {
			got := make([]byte, size)
			if err := clients[i].Read(got, uint64(i)*size); err != nil || !bytes.Equal(got, pattern(size, i+1)) {
				return errors.Join(err, fmt.Errorf("connection %d to %s reads something else than it wrote", i, what))
			}
			return nil
		})
		for _, c := range clients {
			must(t, c.Close())
		}
	}
}

// TestVolumeOf64TiB: the life of a volume of 64 TiB.
func TestVolumeOf64TiB(t *testing.T) {
	t.Parallel()
	const size = 64 << 40
	d := newDaemon(t, "")
	d.start()
	d.do("create", "v", "--size", "64T")
	first, last, zeros := pattern(1<<20, 1), pattern(1<<20, 2), make([]byte, 1<<20)
	d.write("v", first, 0)
	d.write("v", last, size-1<<20)
	d.do("flush", "v")
	d.do("fork", "v", "f")
	trim := d.dial("v")
	for off := uint64(0); off < size; off += 2 << 30 {
		must(t, trim.Trim(off, 2<<30, 0))
	}
	must(t, trim.Flush())
	for range 2 {
		d.holds("v", zeros, 0)
		d.holds("v", zeros, size-1<<20)
		d.holds("f", first, 0)
		d.holds("f", last, size-1<<20)
		d.do("ls")
		d.stop()
		d.start()
	}
}
