package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/daemon"
	"github.com/paraglide/glide/internal/programs"
)

// server is a process that the demo started and will stop.
type server struct {
	*daemon.Process
}

// stop asks the process to end, and makes it if it does not.
func (s server) stop() { _ = s.Stop(15 * time.Second) }

// host is a Glide daemon.
type host struct {
	server
	daemon.Verbs
	name string
}

// serve starts a daemon and waits until it is ready.
func serve(ctx context.Context, glide, dir, name, store string, env, flags []string) (*host, error) {
	data := filepath.Join(dir, name)
	if err := os.Mkdir(data, 0o755); err != nil {
		return nil, err
	}
	h := &host{name: name, Verbs: daemon.Verbs{Glide: glide, API: "unix:" + filepath.Join(data, "api.sock")}}
	cmd := exec.Command(glide, append([]string{"serve", "--data", data, "--store", store, "--nbd", "unix:" + filepath.Join(data, "nbd.sock"), "--api", h.API}, flags...)...)
	cmd.Env = append(os.Environ(), env...)
	p, err := daemon.Serve(ctx, cmd, nil, 30*time.Second)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	h.server = server{p}
	return h, nil
}

// do runs a verb on the host and decodes what it prints. Into nil, nothing is decoded.
func (h *host) do(ctx context.Context, into any, verb ...string) (err error) {
	if into == nil {
		_, err = h.Do(ctx, verb...)
	} else {
		err = h.JSON(ctx, into, verb...)
	}
	return h.wrong(err)
}

// uri is where the volume's NBD export is.
func (h *host) uri(ctx context.Context, volume string) (string, error) {
	out, err := h.Do(ctx, "uri", volume)
	return strings.TrimSpace(out), h.wrong(err)
}

// wrong says on which host something went wrong.
func (h *host) wrong(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", h.name, err)
}

// objectStore is what both hosts share.
type objectStore struct {
	url  string
	dir  string   // where its objects are, as files
	env  []string // credentials, for the hosts
	what string   // in words
}

// openStore makes a directory, or starts an S3 server over one.
func (d *demo) openStore(ctx context.Context) (objectStore, error) {
	dir := filepath.Join(d.dir, "store")
	if d.store == "file" {
		return objectStore{url: "file://" + dir, dir: dir, what: "a directory"}, os.Mkdir(dir, 0o755)
	}
	program, err := programs.Find("versitygw")
	if err != nil {
		return objectStore{}, fmt.Errorf("%w: run make tools", err)
	}
	s3, err := daemon.StartS3(ctx, program, dir)
	if err != nil {
		return objectStore{}, err
	}
	d.processes = append(d.processes, server{s3.Process})
	return objectStore{url: s3.URL(s3.Addr), dir: dir, what: "an S3 server (versitygw)", env: s3.Env}, nil
}

// size is how many bytes the store's files hold.
func (s objectStore) size() (n int64, err error) {
	err = filepath.WalkDir(s.dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		i, err := e.Info()
		if err == nil {
			n += i.Size()
		}
		return err
	})
	return n, err
}
