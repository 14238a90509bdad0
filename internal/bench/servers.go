package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/paraglide/glide/internal/daemon"
)

// start runs all servers, writes their disks fully, and returns the URIs by state or
// peer.
func (b *bench) start(dir string) (map[string]string, error) {
	disks := map[string]string{}
	for _, p := range b.peers {
		uri, err := b.peer(dir, p)
		if err != nil {
			return nil, err
		}
		disks[p] = uri
	}
	d, err := b.serve(filepath.Join(dir, "glide"), "--memory", "128M")
	if err != nil {
		return nil, err
	}
	base, err := d.create("base", b.size)
	if err != nil {
		return nil, err
	}
	if disks[inLog], err = d.create("log", b.size); err != nil {
		return nil, err
	}
	if disks[folded], err = d.create("folded", b.size, "--durability", "continuous"); err != nil {
		return nil, err
	}
	fmt.Printf("writing all disks of %s fully\n", b.size)
	for _, uri := range append([]string{base, disks[folded], disks[inLog]}, values(disks, b.peers)...) {
		if err := b.fill(uri); err != nil {
			return nil, err
		}
	}
	for _, args := range [][]string{{"flush", "base"}, {"flush", "folded"}, {"set", "folded", "durability=local"}, {"flush", "folded"}, {"fork", "base", "published"}} {
		if err := d.do(args...); err != nil {
			return nil, err
		}
	}
	disks[published] = d.uri("published")
	syscall.Sync()
	return disks, nil
}

func values(m map[string]string, keys []string) (out []string) {
	for _, k := range keys {
		out = append(out, m[k])
	}
	return out
}

// peer runs another server with a disk of its own.
func (b *bench) peer(dir, name string) (string, error) {
	file, sock := filepath.Join(dir, name+".img"), filepath.Join(dir, name+".sock")
	var cmd *exec.Cmd
	switch name {
	case "file":
		cmd = exec.Command("nbdkit", "-f", "-U", sock, "file", file)
	case "memory":
		cmd = exec.Command("nbdkit", "-f", "-U", sock, "memory", b.size)
	case "qemu":
		cmd = exec.Command("qemu-nbd", "-t", "-f", "raw", "-e", "16", "--cache=writeback", "-k", sock, file)
	default:
		return "", fmt.Errorf("no peer %q: file, memory and qemu are", name)
	}
	if name != "memory" {
		if err := exec.Command("truncate", "-s", b.size, file).Run(); err != nil {
			return "", err
		}
	}
	p, err := daemon.Start(cmd, nil)
	if err != nil {
		return "", err
	}
	b.procs = append(b.procs, p)
	for range 500 {
		if _, err := os.Stat(sock); err == nil {
			return "nbd+unix:///?socket=" + sock, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("%s did not start: %s", name, p.Log.LastLine())
}

// glide is a glide daemon.
type glide struct {
	daemon.Verbs
	nbd string // its socket
}

// serve runs a daemon.
func (b *bench) serve(data string, flags ...string) (*glide, error) {
	return b.serveOn(nil, data, flags...)
}

// serveOn is serve with more of an environment.
func (b *bench) serveOn(env []string, data string, flags ...string) (*glide, error) {
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	d := &glide{daemon.Verbs{Glide: b.glide, API: "unix:" + data + "/api"}, data + "/nbd"}
	cmd := exec.Command(b.glide, append([]string{"serve", "--data", data, "--nbd", "unix:" + d.nbd, "--api", d.API, "--log-level", "warn"}, flags...)...)
	cmd.Env = append(os.Environ(), env...)
	p, err := daemon.Serve(context.Background(), cmd, nil, time.Minute)
	if err != nil {
		return nil, err
	}
	b.procs = append(b.procs, p)
	return d, nil
}

func (d *glide) do(args ...string) error {
	_, err := d.Do(context.Background(), args...)
	return err
}

func (d *glide) uri(name string) string { return "nbd+unix:///" + name + "?socket=" + d.nbd }

// create makes a volume and returns its URI.
func (d *glide) create(name, size string, flags ...string) (string, error) {
	return d.uri(name), d.do(append([]string{"create", name, "--size", size}, flags...)...)
}

// walStats is what the cleaning cell needs of `glide stats`.
type walStats struct {
	WAL struct {
		Bytes   uint64 `json:"bytes"`
		Cleaned uint64 `json:"cleaned_bytes"`
	} `json:"wal"`
}

func (d *glide) stats() (s walStats, err error) {
	err = d.JSON(context.Background(), &s, "stats")
	return s, err
}

// stop ends the servers. What a daemon complains of is worth a line.
func (b *bench) stop() {
	for _, p := range b.procs {
		if err := p.Stop(time.Minute); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}
}

// fill writes a disk fully.
func (b *bench) fill(uri string) error {
	_, err := b.fio(uri, "--rw=write --bs=1M --iodepth=4")
	return err
}

// run is one run of fio: requests a second, and their latencies in microseconds.
type run struct{ iops, p50, p99, p999 float64 }

// side is what fio reports of the reads or the writes of a job.
type side struct {
	IOPS float64
	Clat struct {
		Percentile map[string]float64
	} `json:"clat_ns"`
}

func (s *side) run() run {
	p := s.Clat.Percentile
	return run{s.IOPS, p["50.000000"] / 1e3, p["99.000000"] / 1e3, p["99.900000"] / 1e3}
}

// job is what fio reports of a job.
type job struct {
	Error       int
	Read, Write side
}

func (b *bench) fioArgs(uri, args string) []string {
	return append([]string{"--name=x", "--ioengine=nbd", "--uri=" + uri, "--size=" + b.size, "--percentile_list=50:99:99.9", "--output-format=json"}, strings.Fields(args)...)
}

// parse decodes fio's report of one job.
func parse(out []byte) (*job, error) {
	var doc struct{ Jobs []job }
	// fio's nbd engine prints lines before the document.
	if i := bytes.IndexByte(out, '{'); i > 0 {
		out = out[i:]
	}
	if err := json.Unmarshal(out, &doc); err != nil || len(doc.Jobs) != 1 || doc.Jobs[0].Error != 0 {
		return nil, fmt.Errorf("no result: %w", err)
	}
	return &doc.Jobs[0], nil
}

// fio runs one job.
func (b *bench) fio(uri, args string) (run, error) {
	out, err := exec.Command("fio", b.fioArgs(uri, args)...).Output()
	if err != nil {
		return run{}, fmt.Errorf("fio %s: %w", args, err)
	}
	j, err := parse(out)
	if err != nil {
		return run{}, fmt.Errorf("fio %s: %w", args, err)
	}
	if j.Read.IOPS == 0 {
		return j.Write.run(), nil
	}
	return j.Read.run(), nil
}
