package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/paraglide/glide/internal/daemon"
)

// fairRow is what a flood or long work does to a quiet volume that reads and writes 500
// pages a second each: the p99 in microseconds alone, beside the work in another daemon,
// and beside it in the same one. Ratio is the median of the pairs of the last two: what
// comes from a shared daemon, not from shared processors and a shared disk. Peer is
// the same of nbdkit file, 0 where it has no such work.
type fairRow struct {
	Name  string  `json:"name"`
	Op    string  `json:"op"`
	Alone float64 `json:"alone_us"`
	Other float64 `json:"other_us"`
	Same  float64 `json:"same_us"`
	Ratio float64 `json:"ratio"`
	Peer  float64 `json:"peer_ratio,omitempty"`
	Rate  string  `json:"rate"` // of the work in the same daemon
}

// quiet is the load of the quiet volume. The first second does not count.
const quiet = "--thread --rw=randrw --bs=4k --iodepth=1 --rate_iops=500,500 --ramp_time=1 --time_based --runtime=600"

var floods = []struct{ name, args string }{
	{"flood of 4k writes, depth 32", "--rw=randwrite --bs=4k --iodepth=32"},
	{"flood of 4k reads, depth 32", "--rw=randread --bs=4k --iodepth=32"},
	{"flood of 1 MiB writes, depth 8", "--rw=write --bs=1M --iodepth=8"},
	{"flood of 1 MiB reads, depth 8", "--rw=read --bs=1M --iodepth=8"},
	{"flood of flushes, one for each 4k write, depth 8", "--rw=randwrite --bs=4k --iodepth=8 --fsync=1"},
}

// work does something for a while and says how fast it was.
type work func() (rate string, err error)

// both is a quiet volume's p99 of reads and writes, in microseconds.
type both [2]float64

// besideOf measures the quiet disk while the work runs, neither longer nor shorter.
func (b *bench) besideOf(uri string, w work) (lat both, rate string, err error) {
	cmd := exec.Command("fio", b.fioArgs(uri, quiet)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return lat, "", err
	}
	time.Sleep(1500 * time.Millisecond)
	rate, err = w()
	_ = cmd.Process.Signal(syscall.SIGINT)
	waited := cmd.Wait()
	if err != nil {
		return lat, rate, err
	}
	job, err := parse(out.Bytes())
	if err != nil {
		return lat, rate, fmt.Errorf("the quiet load: %w (%v)", err, waited)
	}
	if job.Read.IOPS == 0 || job.Write.IOPS == 0 {
		return lat, rate, fmt.Errorf("the quiet load did nothing beside %s", rate)
	}
	return both{job.Read.run().p99, job.Write.run().p99}, rate, nil
}

func (b *bench) idle() (string, error) {
	time.Sleep(time.Duration(b.seconds) * time.Second)
	return "", nil
}

// flood is work against a disk.
func (b *bench) flood(uri, args string) work {
	return func() (string, error) {
		x, err := b.fio(uri, fmt.Sprintf("--thread %s --time_based --runtime=%d", args, b.seconds))
		return strconv.FormatFloat(x.iops, 'f', 0, 64) + " IOPS", err
	}
}

// fairHosts are two daemons on one store, and a server of plain files.
type fairHosts struct {
	b           *bench
	dir         string
	same, other *glide
	files       string // socket of the server of plain files
	made        int
}

// fair measures what one volume's flood, and long work for another volume, does to a
// quiet one.
func (b *bench) fair(dir string) ([]fairRow, error) {
	f := &fairHosts{b: b, dir: filepath.Join(dir, "fair")}
	if err := f.start(); err != nil {
		return nil, err
	}
	fmt.Printf("\np99 in µs of a quiet volume (500 reads and 500 writes of 4k a second): alone, beside work in another daemon, beside it in the same one\n")
	fmt.Printf("%-50s %-6s %7s %7s %7s %7s %7s   %s\n", "", "", "alone", "other", "same", "ratio", "nbdkit", "the work, and ratios of all pairs")
	var rows []fairRow
	for _, x := range floods {
		got, err := f.row(x.name, func(d *glide) (work, error) { return b.flood(d.uri("flooded"), x.args), nil }, b.flood(f.file("flooded"), x.args))
		if err != nil {
			return rows, fmt.Errorf("%s: %w", x.name, err)
		}
		rows = append(rows, got...)
	}
	for _, x := range []struct {
		name    string
		prepare func(*glide) (work, error)
	}{{"fold of 1 GiB", f.fold}, {"import of 1 GiB", f.ingest}, {"hydration of 1 GiB", f.hydrate}} {
		got, err := f.row(x.name, x.prepare, nil)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", x.name, err)
		}
		rows = append(rows, got...)
	}
	return rows, nil
}

// start runs the servers and writes their disks.
func (f *fairHosts) start() (err error) {
	store := "file://" + f.dir + "-store"
	if f.same, err = f.b.serve(f.dir+"-same", "--store", store); err != nil {
		return err
	}
	if f.other, err = f.b.serve(f.dir+"-other", "--store", store); err != nil {
		return err
	}
	if err := os.Mkdir(f.dir+"-files", 0o700); err != nil {
		return err
	}
	f.files = f.dir + "-files.sock"
	p, err := daemon.Start(exec.Command("nbdkit", "-f", "-U", f.files, "file", "dir="+f.dir+"-files"), nil)
	if err != nil {
		return err
	}
	f.b.procs = append(f.b.procs, p)
	for _, name := range []string{"quiet", "flooded"} {
		if err := exec.Command("truncate", "-s", f.b.size, filepath.Join(f.dir+"-files", name)).Run(); err != nil {
			return err
		}
		if err := f.b.fill(f.file(name)); err != nil {
			return err
		}
	}
	// The quiet volume is a fork of an image: it reads published blocks, until it has
	// written them.
	if err := f.filled(f.same, "image"); err != nil {
		return err
	}
	for _, args := range [][]string{{"flush", "image"}, {"fork", "image", "quiet"}} {
		if err := f.same.do(args...); err != nil {
			return err
		}
	}
	if err := f.filled(f.same, "flooded"); err != nil {
		return err
	}
	return f.filled(f.other, "flooded")
}

func (f *fairHosts) file(name string) string { return "nbd+unix:///" + name + "?socket=" + f.files }

func (f *fairHosts) filled(d *glide, name string) error {
	uri, err := d.create(name, f.b.size)
	if err != nil {
		return err
	}
	return f.b.fill(uri)
}

// row measures one kind of work in pairs: beside the work in the other daemon, and in the
// same one, and likewise for two disks of nbdkit. prepare is called before each.
func (f *fairHosts) row(name string, prepare func(*glide) (work, error), peer work) ([]fairRow, error) {
	var alone, other, same, ratio, peers [2][]float64
	var rate string
	for range f.b.pairs {
		a, _, err := f.b.besideOf(f.same.uri("quiet"), f.b.idle)
		if err != nil {
			return nil, err
		}
		w, err := prepare(f.other)
		if err != nil {
			return nil, err
		}
		o, _, err := f.b.besideOf(f.same.uri("quiet"), w)
		if err != nil {
			return nil, err
		}
		if w, err = prepare(f.same); err != nil {
			return nil, err
		}
		s, r, err := f.b.besideOf(f.same.uri("quiet"), w)
		if err != nil {
			return nil, err
		}
		rate = r
		var pa, ps both
		if peer != nil {
			if pa, _, err = f.b.besideOf(f.file("quiet"), f.b.idle); err != nil {
				return nil, err
			}
			if ps, _, err = f.b.besideOf(f.file("quiet"), peer); err != nil {
				return nil, err
			}
		}
		for op := range 2 {
			alone[op], other[op], same[op] = append(alone[op], a[op]), append(other[op], o[op]), append(same[op], s[op])
			ratio[op] = append(ratio[op], s[op]/o[op])
			if peer != nil {
				peers[op] = append(peers[op], ps[op]/pa[op])
			}
		}
	}
	var rows []fairRow
	for op, verb := range []string{"read", "write"} {
		r := fairRow{Name: name, Op: verb, Alone: median(alone[op]), Other: median(other[op]), Same: median(same[op]), Ratio: median(ratio[op]), Rate: rate}
		beside := ""
		if peer != nil {
			r.Peer = median(peers[op])
			beside = fmt.Sprintf("%.2f", r.Peer)
		}
		var each []string
		for _, x := range ratio[op] {
			each = append(each, fmt.Sprintf("%.2f", x))
		}
		fmt.Printf("%-50s %-6s %7.0f %7.0f %7.0f %7.2f %7s   %s; %s\n", name, verb, r.Alone, r.Other, r.Same, r.Ratio, beside, rate, strings.Join(each, " "))
		rows = append(rows, r)
	}
	return rows, nil
}

func (f *fairHosts) next(kind string) string {
	f.made++
	return fmt.Sprintf("%s-%d", kind, f.made)
}

// timed is work that a verb does to 1 GiB.
func timed(d *glide, args ...string) work {
	return func() (string, error) {
		began := time.Now()
		err := d.do(args...)
		return fmt.Sprintf("%.0f MB/s", bulkBytes/1e6/time.Since(began).Seconds()), err
	}
}

// fold returns the first publication of a full volume.
func (f *fairHosts) fold(d *glide) (work, error) {
	name := f.next("folded")
	uri, err := d.create(name, "1G")
	if err != nil {
		return nil, err
	}
	_, err = f.b.fio(uri, "--rw=write --bs=1M --iodepth=4 --size=1G")
	return timed(d, "flush", name), err
}

// ingest returns the import of a file that no volume has.
func (f *fairHosts) ingest(d *glide) (work, error) {
	name := f.next("imported")
	image := filepath.Join(f.dir + "-files.image")
	err := noise(image, bulkBytes, byte(f.made))
	return timed(d, "import", image, name), err
}

// hydrate returns the fetch of a volume that the other host published.
func (f *fairHosts) hydrate(d *glide) (work, error) {
	from := f.same
	if d == f.same {
		from = f.other
	}
	w, err := f.fold(from)
	if err != nil {
		return nil, err
	}
	if _, err := w(); err != nil {
		return nil, err
	}
	source, name := fmt.Sprintf("folded-%d", f.made), f.next("hydrated")
	if err := d.do("fork", source, name, "--lazy"); err != nil {
		return nil, err
	}
	return timed(d, "hydrate", name), nil
}
