package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/paraglide/glide/internal/daemon"
	"github.com/paraglide/glide/internal/netem"
	"github.com/paraglide/glide/internal/programs"
)

// The store of these figures: a real S3 server behind a link.
const (
	roundTrip = 20 * time.Millisecond
	linkRate  = 100e6 // bytes a second
)

// figure is one row of the second table: what depends on the store.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Ratio compares with the row named Of.
	Ratio float64 `json:"ratio,omitempty"`
	Of    string  `json:"of,omitempty"`
}

// far measures what depends on the store.
type far struct {
	b       *bench
	dir     string
	s3      *daemon.S3
	url     string // through the link
	near    string
	figures []figure
}

func (f *far) add(name string, value float64, unit string) {
	f.compare(name, value, unit, "")
}

// compare adds a figure, with its ratio to an earlier one.
func (f *far) compare(name string, value float64, unit, of string) {
	fig := figure{Name: name, Value: value, Unit: unit, Of: of}
	for _, x := range f.figures {
		if x.Name == of {
			fig.Ratio = value / x.Value
		}
	}
	f.figures = append(f.figures, fig)
	ratio := ""
	if of != "" {
		ratio = fmt.Sprintf("%6.2f of %s", fig.Ratio, of)
	}
	fmt.Printf("%-72s %9.1f %-5s %s\n", name, value, unit, ratio)
}

// newFar starts a store that is far away, until close is called.
func (b *bench) newFar(dir string) (f *far, close func(), err error) {
	program, err := programs.Find("versitygw")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: run make tools", err)
	}
	f = &far{b: b, dir: dir}
	if f.s3, err = daemon.StartS3(context.Background(), program, filepath.Join(dir, "s3")); err != nil {
		return nil, nil, err
	}
	b.procs = append(b.procs, f.s3.Process)
	link, err := netem.Listen(f.s3.Addr)
	if err != nil {
		return nil, nil, err
	}
	link.Delay(roundTrip / 2)
	link.Rate(linkRate)
	f.url, f.near = f.s3.URL(link.Addr()), f.s3.URL(f.s3.Addr)
	fmt.Printf("\nthe store is %v and %d MB/s away\n", roundTrip, int(linkRate/1e6))
	return f, link.Close, nil
}

// runFar runs all of them.
func (b *bench) runFar(dir string) ([]figure, error) {
	f, stop, err := b.newFar(dir)
	if err != nil {
		return nil, err
	}
	defer stop()
	for _, step := range []func() error{f.bulk, f.small, f.cold} {
		if err := step(); err != nil {
			return f.figures, err
		}
	}
	return f.figures, nil
}

// host starts a daemon on the store.
func (f *far) host(name, url string, flags ...string) (*glide, error) {
	return f.b.serveOn(f.s3.Env, filepath.Join(f.dir, name), append([]string{"--store", url}, flags...)...)
}

// traffic is what of `glide stats` is about the store.
type traffic struct {
	Up   float64 `json:"store_bytes_up"`
	Down float64 `json:"store_bytes_down"`
}

func (d *glide) traffic() (s traffic, err error) {
	err = d.JSON(context.Background(), &s, "stats")
	return s, err
}

const bulkBytes = 1 << 30

// bulk writes 1 GiB in a row to a volume of each policy, and waits until the store has it
// all. Then it imports as much.
func (f *far) bulk() error {
	d, err := f.host("bulk", f.url)
	if err != nil {
		return err
	}
	for _, policy := range []string{"local", "continuous", "sync"} {
		uri, err := d.create(policy, "1G", "--durability", policy)
		if err != nil {
			return err
		}
		before, err := d.traffic()
		if err != nil {
			return err
		}
		began := time.Now()
		if _, err := f.b.fio(uri, "--rw=write --bs=1M --iodepth=4 --end_fsync=1"); err != nil {
			return err
		}
		if err := d.do("flush", policy); err != nil {
			return err
		}
		took := time.Since(began)
		after, err := d.traffic()
		if err != nil {
			return err
		}
		rows := [][2]string{{"1 GiB written in a row and stored, " + policy, "1 GiB written in a row and stored, local"}, {"bytes sent for it, " + policy, "bytes sent for it, local"}}
		if policy == "local" {
			rows[0][1], rows[1][1] = "", ""
		}
		f.compare(rows[0][0], took.Seconds(), "s", rows[0][1])
		f.compare(rows[1][0], (after.Up-before.Up)/1e6, "MB", rows[1][1])
	}
	image := filepath.Join(f.dir, "image")
	if err := noise(image, bulkBytes, 1); err != nil {
		return err
	}
	began := time.Now()
	if err := d.do("import", image, "imported"); err != nil {
		return err
	}
	f.add("import of 1 GiB", bulkBytes/1e6/time.Since(began).Seconds(), "MB/s")
	return os.Remove(image)
}

// noise writes a file of bytes that cannot be compressed.
func noise(name string, n int64, seed byte) error {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = io.CopyN(out, rand.NewChaCha8([32]byte{seed}), n)
	return errors.Join(err, out.Close())
}

// small writes pages at random with a flush each, at depth 32, to a volume of each policy.
func (f *far) small() error {
	d, err := f.host("small", f.url)
	if err != nil {
		return err
	}
	for _, policy := range []string{"local", "continuous", "sync"} {
		uri, err := d.create("small-"+policy, f.b.size, "--durability", policy)
		if err != nil {
			return err
		}
		x, err := f.b.fio(uri, fmt.Sprintf("--rw=randwrite --bs=4k --iodepth=32 --fsync=32 --time_based --runtime=%d", f.b.seconds))
		if err != nil {
			return err
		}
		name := "4k random write, flush each 32, depth 32, "
		of := name + "local"
		if policy == "local" {
			of = ""
		}
		f.compare(name+policy, x.iops, "IOPS", of)
		f.add(name+policy+", p99", x.p99/1e3, "ms")
	}
	return nil
}

// cold reads a fork on hosts that have nothing. Each host teaches the next what it read.
// So the cells that read least come first.
func (f *far) cold() error {
	d, err := f.host("origin", f.near)
	if err != nil {
		return err
	}
	uri, err := d.create("origin", f.b.size)
	if err != nil {
		return err
	}
	if err := f.b.fill(uri); err != nil {
		return err
	}
	if err := d.do("flush", "origin"); err != nil {
		return err
	}
	for i, c := range []struct{ name, args, unit string }{
		{"4k random read, depth 1, cold", fmt.Sprintf("--rw=randread --bs=4k --iodepth=1 --time_based --runtime=%d", f.b.seconds), "IOPS"},
		{"4k random read, depth 32, cold", fmt.Sprintf("--rw=randread --bs=4k --iodepth=32 --time_based --runtime=%d", f.b.seconds), "IOPS"},
		{"128k sequential read, depth 8, cold", "--rw=read --bs=128k --iodepth=8 --io_size=512M", "MB/s"},
	} {
		name := fmt.Sprintf("cold-%d", i)
		host, err := f.host(name, f.url)
		if err != nil {
			return err
		}
		if err := host.do("fork", "origin", name, "--lazy"); err != nil {
			return err
		}
		x, err := f.b.fio(host.uri(name), c.args)
		if err != nil {
			return err
		}
		s, err := host.traffic()
		if err != nil {
			return err
		}
		if c.unit == "MB/s" {
			f.add(c.name, x.iops*(128<<10)/1e6, c.unit)
			f.add("bytes fetched for 512 MiB of it", s.Down/1e6, "MB")
			continue
		}
		f.add(c.name, x.iops, c.unit)
		f.add(c.name+", p50", x.p50/1e3, "ms")
		f.add("bytes fetched for each read", s.Down/1e3/(x.iops*float64(f.b.seconds)), "kB")
	}
	return nil
}
