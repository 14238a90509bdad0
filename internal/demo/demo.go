package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/guest"
)

// The demo's volumes. The first fork is the one that travels; it and the second
// boot, the others are written to over NBD.
const (
	base     = "debian"
	forks    = 10
	booted   = 2
	traveler = "fork-1"
	abroad   = "abroad" // the fork of the traveler on the second host

	smallest = 1 << 20 // bytes of a disk
)

// demo is one run.
type demo struct {
	options
	out *printer
	dir string

	processes []interface{ stop() } // in the order in which they were started
	objects   objectStore
	one, two  *host
	loader    guest.Image
	boots     bool // the disk is one that the demo can boot
	tail      uint64

	before fingerprint   // of the base, before the forks
	sums   string        // of the files that the base's guest wrote, as sha256sum prints them
	own    [forks]string // the same for each fork's own file
	proofs int
	failed int
	figures
}

// run is the demo from start to end.
func (d *demo) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.disk, d.hosts, d.importDisk, d.bootBase, d.fork, d.writeForks, d.proveForks, d.flushForks, d.travel, d.proveTravel, d.count,
	} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	d.out.table(d.figures.rows(d))
	if d.failed > 0 {
		return fmt.Errorf("%d of %d proofs failed", d.failed, d.proofs)
	}
	d.out.say("all %d proofs hold", d.proofs)
	return nil
}

// stop ends what the demo started, the last first.
func (d *demo) stop() {
	for _, p := range slices.Backward(d.processes) {
		p.stop()
	}
}

// prove reports whether something that must hold does.
func (d *demo) prove(ok bool, format string, args ...any) {
	d.proofs++
	mark := "✓"
	if !ok {
		d.failed++
		mark = "✗ FAILED:"
	}
	d.out.detail("%s %s", mark, fmt.Sprintf(format, args...))
}

func (d *demo) disk(ctx context.Context) (err error) {
	dir := filepath.Join(d.cache, "guest")
	if d.image != "" {
		d.out.say("taking the disk %s", d.image)
		return nil
	}
	d.out.say("making a Debian disk of %s", bytesText(guest.DiskSize))
	d.loader, err = guest.Build(ctx, dir, func(s string) { d.out.detail("%s", s) })
	if err != nil {
		return err
	}
	if d.loader.Cached {
		d.out.detail("it is there already, from an earlier time")
	}
	d.image = d.loader.Path
	return nil
}

func (d *demo) hosts(ctx context.Context) (err error) {
	if d.store == "s3" {
		d.out.say("starting an S3 server and two hosts")
	} else {
		d.out.say("starting two hosts on one store")
	}
	if d.objects, err = d.openStore(ctx); err != nil {
		return err
	}
	var flags []string
	provider := "file:" + filepath.Join(d.dir, "key")
	if d.sealed {
		key := make([]byte, 32)
		_, _ = rand.Read(key)
		if err := os.WriteFile(filepath.Join(d.dir, "key"), key, 0o600); err != nil {
			return err
		}
		flags = []string{"--key", provider, "--sealed-only", "on"}
	}
	for _, h := range []struct {
		name string
		to   **host
	}{{"host-1", &d.one}, {"host-2", &d.two}} {
		if *h.to, err = serve(ctx, d.glide, d.dir, h.name, d.objects.url, d.objects.env, flags); err != nil {
			return err
		}
		d.processes = append(d.processes, *h.to)
	}
	if !d.sealed {
		return nil
	}
	d.out.detail("what they store is sealed with keys of the tenant")
	return d.one.do(ctx, nil, "tenant", "create", "default", "--key", provider, "--one-key")
}

func (d *demo) importDisk(ctx context.Context) error {
	d.out.say("importing it on host 1")
	if err := d.one.do(ctx, &d.imported, "import", d.image, base); err != nil {
		return err
	}
	i := d.imported
	d.out.detail("%s of data, %s uploaded, in %s", bytesText(i.BytesRead), bytesText(i.BytesUploaded), millis(i.ElapsedMs))
	if i.Size < smallest {
		return fmt.Errorf("%s has %s: the demo needs %s, for forks to differ in", d.image, bytesText(i.Size), bytesText(uint64(smallest)))
	}
	head, err := d.one.read(ctx, base, 0, 4096)
	if err != nil {
		return err
	}
	if d.boots = guest.HasLabel(head); !d.boots {
		d.out.detail("its content is unknown to the demo: it is read and written over NBD, not booted")
		return nil
	}
	d.tail = guest.TailSize
	if d.loader.Kernel == "" {
		d.loader, err = guest.Loader(ctx, filepath.Join(d.cache, "guest"))
	}
	return err
}

// bootBase boots the imported disk, and has the guest write files.
func (d *demo) bootBase(ctx context.Context) error {
	if d.boots {
		d.out.say("booting it in a VM that writes files")
		r, err := d.boot(ctx, d.one, base, writeBase)
		if err != nil {
			return err
		}
		d.sums = r.Output
		d.out.detail("%d files written, to init in %s", countLines(d.sums), seconds(r.Init))
		d.prove(countLines(d.sums) == baseFiles, "the guest reports a checksum for each of its %d files", baseFiles)
	} else {
		d.out.say("writing to it over NBD")
		if err := d.one.write(ctx, base, d.pattern(0)); err != nil {
			return err
		}
	}
	d.out.say("reading the whole disk for its checksum")
	var err error
	d.before, err = d.one.fingerprint(ctx, base)
	if err == nil {
		d.out.detail("%s", d.before.sum())
	}
	return err
}

func (d *demo) fork(ctx context.Context) error {
	d.out.say("forking it %d times", forks)
	was, err := d.one.stats(ctx)
	if err != nil {
		return err
	}
	if err := d.one.do(ctx, &d.forked, "fork", base, "fork", "-n", strconv.Itoa(forks)); err != nil {
		return err
	}
	is, err := d.one.stats(ctx)
	if err != nil {
		return err
	}
	if len(d.forked) != forks {
		return fmt.Errorf("glide fork -n %d made %d forks", forks, len(d.forked))
	}
	d.forkRequests = subtract(is.Requests, was.Requests)
	d.out.detail("slowest %s, store requests: %s", millis(d.slowestFork()), requestsText(d.forkRequests))
	return nil
}

// writeForks gives each fork something that no other has.
func (d *demo) writeForks(ctx context.Context) error {
	first := 0
	if d.boots {
		first = booted
		d.out.say("booting %d of the forks; each writes a file of its own", booted)
	}
	for i := range first {
		r, err := d.boot(ctx, d.one, d.forked[i].Name, writeOwn(d.sums, forkFile(i)))
		if err != nil {
			return err
		}
		d.own[i] = r.Output
		d.prove(countLines(r.Output) == 1, "%s: the base's files are intact, no other fork's file is there", d.forked[i].Name)
	}
	d.out.say("writing a pattern into each of the other %d over NBD", forks-first)
	for i := first; i < forks; i++ {
		if err := d.one.write(ctx, d.forked[i].Name, d.pattern(i+1)); err != nil {
			return err
		}
	}
	return nil
}

// pattern is what goes over NBD into the i-th fork, counted from one; 0 is the base.
func (d *demo) pattern(i int) pattern {
	return patternOf(fmt.Sprint(i), i, forks+1, d.imported.Size, d.tail)
}

// proveForks compares all disks with the one they came from.
func (d *demo) proveForks(ctx context.Context) error {
	d.out.say("reading the base and all forks whole, and comparing")
	after, err := d.one.fingerprint(ctx, base)
	if err != nil {
		return err
	}
	d.prove(len(d.before.differ(after)) == 0, "base: unchanged by what its forks wrote")
	var exact []string
	for i, f := range d.forked {
		fp, err := d.one.fingerprint(ctx, f.Name)
		if err != nil {
			return err
		}
		d.prints[i] = fp
		changed := d.before.differ(fp)
		if d.boots && i < booted {
			behind := int((d.imported.Size - d.tail) / chunk)
			foreign := slices.IndexFunc(changed, func(c int) bool { return c >= behind }) >= 0
			d.prove(len(changed) > 0 && !foreign, "%s: differs in %s that its guest wrote, has no other fork's pattern",
				f.Name, bytesText(len(changed)*chunk))
			continue
		}
		p := d.pattern(i + 1)
		has, err := d.one.has(ctx, f.Name, p)
		if err != nil {
			return err
		}
		if !has || !slices.Equal(changed, p.chunks()) {
			d.prove(false, "%s: own pattern there: %v; changed %v, expected %v", f.Name, has, changed, p.chunks())
			continue
		}
		exact = append(exact, f.Name)
	}
	d.prove(len(exact) > 0, "%d forks: own pattern there, equal to the base everywhere else", len(exact))
	return nil
}

func (d *demo) flushForks(ctx context.Context) error {
	d.out.say("flushing all forks to the store")
	for _, f := range d.forked {
		var done api.Flush
		if err := d.one.do(ctx, &done, "flush", f.Name); err != nil {
			return err
		}
		d.flushed = append(d.flushed, done)
	}
	n, r := d.flushTotal()
	d.out.detail("%s uploaded, store requests: %s", bytesText(n), requestsText(r))
	return nil
}

// travel makes a fork on the second host, which holds nothing yet, and boots
// it cold, and again warm.
func (d *demo) travel(ctx context.Context) error {
	d.out.say("forking %s on host 2, which has never seen it", traveler)
	if err := d.two.do(ctx, &d.remote, "fork", traveler, abroad); err != nil {
		return err
	}
	d.out.detail("%s, store requests: %s", millis(d.remote.ElapsedMs), requestsText(d.remote.Requests))
	for _, run := range []struct {
		what string
		into *visit
	}{{"cold: every block comes from the store when it is read", &d.cold}, {"warm", &d.warm}} {
		was, err := d.two.stats(ctx)
		if err != nil {
			return err
		}
		started := time.Now()
		if d.boots {
			d.out.say("booting it there, %s", run.what)
			r, err := d.boot(ctx, d.two, abroad, look)
			if err != nil {
				return err
			}
			run.into.init, run.into.total = r.Init, r.Total
			d.out.detail("the guest says: %s", strings.TrimSpace(r.Output))
		} else {
			d.out.say("reading it whole there, %s", run.what)
			if _, err := d.two.fingerprint(ctx, abroad); err != nil {
				return err
			}
			run.into.total = time.Since(started)
		}
		is, err := d.two.stats(ctx)
		if err != nil {
			return err
		}
		run.into.fetched = is.BytesDown - was.BytesDown
		run.into.requests = subtract(is.Requests, was.Requests)
		d.out.detail("%s, fetched %s of %s in %d requests", seconds(run.into.total), bytesText(run.into.fetched),
			bytesText(d.imported.Size), run.into.requests.Get)
	}
	return nil
}

// proveTravel compares the disks on the second host with those on the first.
func (d *demo) proveTravel(ctx context.Context) error {
	if d.boots {
		d.out.say("checking in the guest on host 2")
		r, err := d.boot(ctx, d.two, abroad, checkOwn(d.sums, d.own[0], forkFile(0), abroad))
		if err != nil && r.Exit <= 0 {
			return err
		}
		d.prove(err == nil, "%s: all files have the checksums that the guests on host 1 reported, and no others are there", abroad)
		r, err = d.boot(ctx, d.one, d.forked[1].Name, checkOwn(d.sums, d.own[1], forkFile(1), ""))
		if err != nil && r.Exit <= 0 {
			return err
		}
		d.prove(err == nil, "%s: booted again on host 1, has its own file and no other", d.forked[1].Name)
	}
	d.out.say("reading forks whole on host 2, through the store")
	for _, i := range []int{0, booted} {
		name := "copy-of-" + d.forked[i].Name
		if err := d.two.do(ctx, nil, "fork", d.forked[i].Name, name); err != nil {
			return err
		}
		there, err := d.two.fingerprint(ctx, name)
		if err != nil {
			return err
		}
		d.prove(len(there.differ(d.prints[i])) == 0, "%s: %s on host 1 and %s on host 2", d.forked[i].Name, d.prints[i].sum(), there.sum())
	}
	again, err := d.one.fingerprint(ctx, traveler)
	if err != nil {
		return err
	}
	d.prove(len(again.differ(d.prints[0])) == 0, "%s: unchanged on host 1 by what its fork on host 2 wrote", traveler)
	return nil
}

// boot boots a volume of a host's and runs a script in it.
func (d *demo) boot(ctx context.Context, h *host, volume, script string) (guest.Result, error) {
	uri, err := h.uri(ctx, volume)
	if err != nil {
		return guest.Result{Exit: -1}, err
	}
	r, err := guest.Boot(ctx, guest.VM{Kernel: d.loader.Kernel, Initrd: d.loader.Initrd, Disk: uri, Script: script, Timeout: 90 * time.Second})
	if err != nil && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("%s on %s: %w", volume, h.name, err)
	}
	return r, err
}
