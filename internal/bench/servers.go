package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
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
	if err := b.background(cmd); err != nil {
		return "", err
	}
	for range 500 {
		if _, err := os.Stat(sock); err == nil {
			return "nbd+unix:///?socket=" + sock, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("%s did not start", name)
}

// daemon is a glide daemon.
type daemon struct{ bin, api, nbd string }

// serve runs a daemon.
func (b *bench) serve(data string, flags ...string) (*daemon, error) {
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	d := &daemon{bin: b.glide, api: "unix:" + data + "/api", nbd: data + "/nbd"}
	cmd := exec.Command(b.glide, append([]string{"serve", "--data", data, "--nbd", "unix:" + d.nbd, "--api", d.api, "--log-level", "warn"}, flags...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := b.background(cmd); err != nil {
		return nil, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); !strings.HasPrefix(line, "glide: ready") {
		return nil, fmt.Errorf("glide did not get ready: %q %w", line, err)
	}
	return d, nil
}

func (d *daemon) do(args ...string) error {
	if msg, err := exec.Command(d.bin, append([]string{"--api", d.api}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("glide %s: %w: %s", strings.Join(args, " "), err, msg)
	}
	return nil
}

func (d *daemon) uri(name string) string { return "nbd+unix:///" + name + "?socket=" + d.nbd }

// create makes a volume and returns its URI.
func (d *daemon) create(name, size string, flags ...string) (string, error) {
	return d.uri(name), d.do(append([]string{"create", name, "--size", size}, flags...)...)
}

// walStats is what the cleaning cell needs of `glide stats`.
type walStats struct {
	WAL struct {
		Bytes   uint64 `json:"bytes"`
		Cleaned uint64 `json:"cleaned_bytes"`
	} `json:"wal"`
}

func (d *daemon) stats() (s walStats, err error) {
	msg, err := exec.Command(d.bin, "--api", d.api, "stats", "--json").Output()
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(msg, &s)
}

func (b *bench) background(cmd *exec.Cmd) error {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.procs = append(b.procs, cmd)
	return nil
}

func (b *bench) stop() {
	for _, p := range b.procs {
		_ = p.Process.Signal(syscall.SIGTERM)
		_ = p.Wait()
	}
}

// fill writes a disk fully.
func (b *bench) fill(uri string) error {
	_, err := b.fio(uri, "--rw=write --bs=1M --iodepth=4")
	return err
}

// run is one run of fio: requests a second, and their latencies in microseconds.
type run struct{ iops, p50, p99, p999 float64 }

// fio runs one job.
func (b *bench) fio(uri, args string) (run, error) {
	cmd := exec.Command("fio", append([]string{"--name=x", "--ioengine=nbd", "--uri=" + uri, "--size=" + b.size, "--percentile_list=50:99:99.9", "--output-format=json"}, strings.Fields(args)...)...)
	out, err := cmd.Output()
	if err != nil {
		return run{}, fmt.Errorf("fio %s: %w", args, err)
	}
	type side struct {
		IOPS float64
		Clat struct {
			Percentile map[string]float64
		} `json:"clat_ns"`
	}
	var doc struct {
		Jobs []struct {
			Error       int
			Read, Write side
		}
	}
	// fio's nbd engine prints a line before the document.
	if i := strings.IndexByte(string(out), '{'); i > 0 {
		out = out[i:]
	}
	if err := json.Unmarshal(out, &doc); err != nil || len(doc.Jobs) != 1 || doc.Jobs[0].Error != 0 {
		return run{}, fmt.Errorf("fio %s: no result: %w", args, err)
	}
	s := doc.Jobs[0].Read
	if s.IOPS == 0 {
		s = doc.Jobs[0].Write
	}
	p := s.Clat.Percentile
	return run{s.IOPS, p["50.000000"] / 1e3, p["99.000000"] / 1e3, p["99.900000"] / 1e3}, nil
}
