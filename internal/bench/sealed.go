package main

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sealedTenants compares what a tenant with keys costs with a plain one: the time of an
// import, a fold and a cold read, and bytes in the store. Both tenants are on the same
// daemons and the same store, and take turns.
type sealedTenants struct {
	b      *bench
	dir    string
	images map[string]string // raw images
	hosts  map[string]*glide
	stores map[string]string // directories, by the compression of what is in them
	n      int
}

// sealedRow is one comparison. run returns how long it took.
type sealedRow struct {
	name  string
	floor float64 // of plain time over sealed time
	pack  string  // compression
	image string
	run   func(s *sealedTenants, tenant string, row *sealedRow) (time.Duration, error)
}

// The images: files of this machine, which is what guests have, and data that zstd takes
// little time for, every other 4 KiB noise.
const (
	ofPrograms = "programs"
	ofNoise    = "noise"
)

var sealedRows = []sealedRow{
	{"import of programs, zstd", 0.95, "zstd", ofPrograms, (*sealedTenants).ingest},
	{"import of noise, zstd", 0.95, "zstd", ofNoise, (*sealedTenants).ingest},
	{"import of noise, no compression", 0.6, "none", ofNoise, (*sealedTenants).ingest},
	{"flush of programs that a guest wrote, zstd", 0.95, "zstd", ofPrograms, (*sealedTenants).fold},
	{"flush of noise, zstd", 0.95, "zstd", ofNoise, (*sealedTenants).fold},
	{"flush of noise, no compression", 0.6, "none", ofNoise, (*sealedTenants).fold},
	{"cold read of a fork of programs on a new host, zstd", 0.95, "zstd", ofPrograms, (*sealedTenants).cold},
	{"cold read of noise, zstd", 0.95, "zstd", ofNoise, (*sealedTenants).cold},
	{"cold read of noise, no compression", 0.95, "none", ofNoise, (*sealedTenants).cold},
}

// sealed runs the comparisons.
func (b *bench) sealed(dir string) error {
	s := &sealedTenants{b: b, dir: dir, hosts: map[string]*glide{}, stores: map[string]string{}}
	if err := s.start(); err != nil {
		return err
	}
	fmt.Printf("\nspeed with keys of the tenant over without, %s each, %d pairs\n%-52s %9s %9s %6s %6s\n", b.size, b.pairs, "", "plain s", "sealed s", "floor", "ratio")
	for _, row := range sealedRows {
		all, ratios := map[string][]float64{}, []float64{}
		for i := range b.pairs {
			order := []string{"plain", "sealed"}
			if i%2 == 1 {
				slices.Reverse(order)
			}
			for _, tenant := range order {
				took, err := row.run(s, tenant, &row)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", row.name, tenant, err)
				}
				all[tenant] = append(all[tenant], took.Seconds())
			}
			ratios = append(ratios, all["plain"][i]/all["sealed"][i])
		}
		fmt.Printf("%-52s %9.3f %9.3f %6.2f %6.3f   %.2f\n", row.name, median(all["plain"]), median(all["sealed"]), row.floor, median(ratios), ratios)
		if err := s.collect(); err != nil {
			return err
		}
	}
	return s.bytes()
}

func (s *sealedTenants) start() error {
	n, err := bytesOf(s.b.size)
	if err != nil {
		return err
	}
	s.images = map[string]string{ofPrograms: filepath.Join(s.dir, ofPrograms), ofNoise: filepath.Join(s.dir, ofNoise)}
	if err := files(s.images[ofPrograms], "/usr", n); err != nil {
		return err
	}
	if err := halfNoise(s.images[ofNoise], n); err != nil {
		return err
	}
	key := filepath.Join(s.dir, "key")
	if err := os.WriteFile(key, []byte("0123456789abcdef0123456789abcdef"), 0o600); err != nil {
		return err
	}
	for _, pack := range []string{"zstd", "none"} {
		s.stores[pack] = filepath.Join(s.dir, "store-"+pack)
		d, err := s.serve(pack, "host-"+pack)
		if err != nil {
			return err
		}
		s.hosts[pack] = d
		if err := d.do("tenant", "create", "sealed", "--one-key"); err != nil {
			return err
		}
		for _, tenant := range []string{"plain", "sealed"} {
			for name, image := range s.images {
				if err := d.do("import", image, tenant+"/"+name, "--format", "raw"); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (s *sealedTenants) serve(pack, name string) (*glide, error) {
	return s.b.serve(filepath.Join(s.dir, name), "--store", "file://"+s.stores[pack], "--compression", pack, "--key", "file:"+filepath.Join(s.dir, "key"), "--cache", "2G", "--retention", "1s")
}

// collect removes from the stores what the removed volumes had.
func (s *sealedTenants) collect() error {
	time.Sleep(time.Second) // the retention
	for _, d := range s.hosts {
		for range 2 {
			if err := d.do("gc", "--grace", "0s"); err != nil {
				return err
			}
		}
	}
	return nil
}

func bytesOf(size string) (n int64, err error) {
	shift := 20
	if strings.HasSuffix(size, "G") {
		shift = 30
	}
	_, err = fmt.Sscanf(strings.TrimRight(size, "GM"), "%d", &n)
	return n << shift, err
}

// halfNoise writes an image of which every other 4 KiB compresses, and no two blocks are alike.
func halfNoise(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	r := rand.NewChaCha8([32]byte{5})
	b := make([]byte, 1<<20)
	for range size >> 20 {
		_, _ = r.Read(b)
		for at := 0; at < len(b); at += 8192 {
			copy(b[at+64:at+4096], strings.Repeat("what guests write often repeats itself; ", 101)[:4032])
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return f.Close()
}

// files writes an image of the files below a directory, from the beginning again if there is
// too little in them.
func files(name, dir string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	left := size
	for left > 0 {
		before := left
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || left == 0 || !e.Type().IsRegular() {
				return err
			}
			from, err := os.Open(path)
			if err != nil {
				return err
			}
			defer from.Close()
			n, err := io.Copy(f, io.LimitReader(from, left))
			left -= n
			return err
		})
		if err != nil {
			return err
		}
		if left == before {
			return fmt.Errorf("there is nothing in %s", dir)
		}
	}
	return f.Close()
}

func (s *sealedTenants) next(tenant string) string {
	s.n++
	return fmt.Sprintf("%s/v%d", tenant, s.n)
}

// ingest imports an image under another salt, so that nothing of it is there already.
func (s *sealedTenants) ingest(tenant string, row *sealedRow) (time.Duration, error) {
	if err := s.change(row.image); err != nil {
		return 0, err
	}
	name := s.next(tenant)
	began := time.Now()
	err := s.hosts[row.pack].do("import", s.images[row.image], name, "--format", "raw")
	took := time.Since(began)
	if err == nil {
		err = s.hosts[row.pack].do("rm", name)
	}
	return took, err
}

// change makes every block of an image another one.
func (s *sealedTenants) change(image string) error {
	f, err := os.OpenFile(s.images[image], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	in, err := f.Stat()
	if err != nil {
		return err
	}
	var salt [16]byte
	s.n++
	for at := int64(0); at < in.Size(); at += 128 << 10 {
		copy(salt[:], fmt.Sprintf("%08d%08d", s.n, at>>17))
		if _, err := f.WriteAt(salt[:], at); err != nil {
			return err
		}
	}
	return f.Close()
}

// fold flushes a volume that a guest has just filled.
func (s *sealedTenants) fold(tenant string, row *sealedRow) (time.Duration, error) {
	d, name := s.hosts[row.pack], s.next(tenant)
	uri, err := d.create(name, s.b.size)
	if err == nil {
		err = s.change(row.image)
	}
	if err != nil {
		return 0, err
	}
	if out, err := exec.Command("nbdcopy", s.images[row.image], uri).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("nbdcopy: %w: %s", err, out)
	}
	began := time.Now()
	err = d.do("flush", name)
	took := time.Since(began)
	if err == nil {
		err = d.do("rm", name, "--force")
	}
	return took, err
}

// cold reads all of a fork on a host that has nothing.
func (s *sealedTenants) cold(tenant string, row *sealedRow) (time.Duration, error) {
	host, name := fmt.Sprintf("cold-%d", s.n), s.next(tenant)
	d, err := s.serve(row.pack, host)
	if err != nil {
		return 0, err
	}
	if err := d.do("fork", tenant+"/"+row.image, name); err != nil {
		return 0, err
	}
	began := time.Now()
	out, err := exec.Command("nbdcopy", d.uri(name), "null:").CombinedOutput()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("nbdcopy: %w: %s", err, out)
	}
	if err := d.do("rm", name, "--force"); err != nil {
		return 0, err
	}
	last := len(s.b.procs) - 1
	s.b.procs[last].Kill()
	s.b.procs = s.b.procs[:last]
	return took, os.RemoveAll(filepath.Join(s.dir, host))
}

// bytes compares what the images take in the store.
func (s *sealedTenants) bytes() error {
	for _, pack := range []string{"zstd", "none"} {
		size := map[string]int64{}
		err := filepath.WalkDir(s.stores[pack], func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || !strings.Contains(path, "/packs/") {
				return err
			}
			in, err := e.Info()
			if err != nil {
				return err
			}
			if strings.Contains(path, "/d/") {
				size["sealed"] += in.Size()
			} else {
				size["plain"] += in.Size()
			}
			return nil
		})
		if err != nil {
			return err
		}
		fmt.Printf("bytes of packs, %s: %d plain, %d sealed, %.5f\n", pack, size["plain"], size["sealed"], float64(size["sealed"])/float64(size["plain"]))
	}
	return nil
}
