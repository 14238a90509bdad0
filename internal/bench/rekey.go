package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The rows of a re-key.
const (
	sealedImport = "import of 1 GiB into a sealed tenant"
	rekeyAlone   = "re-key of that"
	guestAlone   = "4k random write, flush each 32, depth 32, alone"
	guestBeside  = "4k random write, flush each 32, depth 32, beside a re-key"
	guestSlow    = "4k random write, flush each 32, depth 32, beside a re-key at 20 MB/s"
)

// rekey measures how fast what a tenant has is brought under a new root, beside what an
// import gets of the same link, and what a guest feels of it.
func (b *bench) rekey(dir string) error {
	f, stop, err := b.newFar(dir)
	if err != nil {
		return err
	}
	defer stop()
	key, image := filepath.Join(dir, "key"), filepath.Join(dir, "image")
	if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef"), 0o600); err != nil {
		return err
	}
	if err := noise(image, bulkBytes, 1); err != nil {
		return err
	}
	d, err := f.host("rekey", f.url, "--key", "file:"+key)
	if err != nil {
		return err
	}
	if err := d.do("tenant", "create", "sealed", "--one-key"); err != nil {
		return err
	}
	uri, err := d.create("sealed/guest", b.size)
	if err != nil {
		return err
	}
	rate := func(args ...string) (float64, error) {
		began := time.Now()
		err := d.do(args...)
		return bulkBytes / 1e6 / time.Since(began).Seconds(), err
	}
	guest := func() (float64, error) {
		x, err := b.fio(uri, fmt.Sprintf("--rw=randwrite --bs=4k --iodepth=32 --fsync=32 --time_based --runtime=%d", b.seconds))
		return x.iops, err
	}
	got := map[string][]float64{}
	note := func(name string) func(float64, error) error {
		return func(x float64, err error) error { got[name] = append(got[name], x); return err }
	}
	if err := note(sealedImport)(rate("import", image, "sealed/base", "--format", "raw")); err != nil {
		return err
	}
	// beside runs the guest while a re-key does its work, which is then cut off.
	beside := func(args ...string) (float64, error) {
		if err := d.do("tenant", "rotate", "sealed"); err != nil {
			return 0, err
		}
		ctx, cut := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = d.Do(ctx, append([]string{"tenant", "rekey", "sealed"}, args...)...)
		}()
		x, err := guest()
		cut()
		<-done
		return x, err
	}
	if _, err := guest(); err != nil { // the first fills the log
		return err
	}
	steps := []func() error{
		func() error { return note(guestAlone)(guest()) },
		func() error { return note(guestBeside)(beside()) },
		func() error { return note(guestSlow)(beside("--rate", "20M")) },
	}
	for i := range b.pairs {
		if err := d.do("tenant", "rotate", "sealed"); err != nil {
			return err
		}
		if err := note(rekeyAlone)(rate("tenant", "rekey", "sealed")); err != nil {
			return err
		}
		for n := range steps {
			if err := steps[(n+i)%len(steps)](); err != nil {
				return err
			}
		}
	}
	for _, row := range [][3]string{{sealedImport, "MB/s"}, {rekeyAlone, "MB/s", sealedImport}, {guestAlone, "IOPS"}, {guestBeside, "IOPS", guestAlone}, {guestSlow, "IOPS", guestAlone}} {
		f.compare(row[0], median(got[row[0]]), row[1], row[2])
	}
	return nil
}
