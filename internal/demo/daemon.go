package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// process is a server that the demo started and will stop.
type process struct {
	name   string
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
	err    error         // why; set before exited is closed
	log    string        // the file with what it wrote
}

// launch starts a server in a process group of its own, so that an interrupt
// at the terminal reaches only us, and we stop servers in order.
func launch(name, log string, stdout io.Writer, env []string, program string, args ...string) (*process, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = stdout, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, exited: make(chan struct{}), log: log}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// stop asks the process to end, and makes it if it does not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// lastWords is the last line that the process wrote to its log.
func (p *process) lastWords() string {
	b, _ := os.ReadFile(p.log)
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// host is a Glide daemon.
type host struct {
	*process
	glide, api string
}

// serve starts a daemon and waits until it is ready.
func serve(ctx context.Context, glide, dir, name, store string, env []string) (*host, error) {
	data := filepath.Join(dir, name)
	if err := os.Mkdir(data, 0o755); err != nil {
		return nil, err
	}
	h := &host{glide: glide, api: "unix:" + filepath.Join(data, "api.sock")}
	r, w := io.Pipe()
	p, err := launch(name, filepath.Join(dir, name+".log"), w, env, glide, "serve", "--data", data, "--store", store,
		"--nbd", "unix:"+filepath.Join(data, "nbd.sock"), "--api", h.api)
	if err != nil {
		return nil, err
	}
	h.process = p
	ready := make(chan struct{})
	go func() {
		s, seen := bufio.NewScanner(r), false
		for s.Scan() {
			if !seen && strings.HasPrefix(s.Text(), "glide: ready") {
				seen = true
				close(ready)
			}
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	select {
	case <-ready:
		return h, nil
	case <-p.exited:
		return nil, fmt.Errorf("%s ended: %v: %s", name, p.err, p.lastWords())
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(30 * time.Second):
		err = fmt.Errorf("%s is not ready after 30 s: %s", name, p.lastWords())
	}
	p.stop()
	return nil, err
}

// do runs a verb on the host and decodes what it prints. Into nil, nothing is decoded.
func (h *host) do(ctx context.Context, into any, verb ...string) error {
	args := append(verb, "--api", h.api)
	if into != nil {
		args = append(args, "--json")
	}
	cmd := exec.CommandContext(ctx, h.glide, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s: glide %s: %w: %s", h.name, strings.Join(verb, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil {
		return fmt.Errorf("%s: glide %s: %w", h.name, strings.Join(verb, " "), err)
	}
	return nil
}

// uri is where the volume's NBD export is.
func (h *host) uri(ctx context.Context, volume string) (string, error) {
	cmd := exec.CommandContext(ctx, h.glide, "uri", volume, "--api", h.api)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
		}
		return "", fmt.Errorf("%s: glide uri %s: %w", h.name, volume, err)
	}
	return strings.TrimSpace(string(out)), nil
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
	const bucket, access, secret = "demo", "demo", "demosecret"
	dir := filepath.Join(d.dir, "store")
	if d.store == "file" {
		return objectStore{url: "file://" + dir, dir: dir, what: "a directory"}, os.Mkdir(dir, 0o755)
	}
	if err := os.MkdirAll(filepath.Join(dir, bucket), 0o755); err != nil {
		return objectStore{}, err
	}
	program, err := d.tool("versitygw")
	if err != nil {
		return objectStore{}, err
	}
	addr, err := freeAddress()
	if err != nil {
		return objectStore{}, err
	}
	p, err := launch("versitygw", filepath.Join(d.dir, "s3.log"), nil, nil, program, "--port", addr,
		"--access", access, "--secret", secret, "--quiet", "--keep-alive", "posix", dir)
	if err != nil {
		return objectStore{}, err
	}
	d.processes = append(d.processes, p)
	for deadline := time.Now().Add(20 * time.Second); ; {
		var dialer net.Dialer
		c, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			_ = c.Close()
			break
		}
		select {
		case <-p.exited:
			return objectStore{}, fmt.Errorf("versitygw ended: %v: %s", p.err, p.lastWords())
		case <-ctx.Done():
			return objectStore{}, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return objectStore{}, fmt.Errorf("versitygw does not answer: %s", p.lastWords())
		}
	}
	q := url.Values{"endpoint": {"http://" + addr}, "path_style": {"true"}, "region": {"us-east-1"}}
	return objectStore{
		url: "s3://" + bucket + "?" + q.Encode(), dir: dir, what: "an S3 server (versitygw)",
		env: []string{
			"AWS_ACCESS_KEY_ID=" + access, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SESSION_TOKEN=", "AWS_REGION=us-east-1",
			"AWS_PROFILE=", "AWS_CONFIG_FILE=" + os.DevNull, "AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
			"AWS_ENDPOINT_URL=", "AWS_ENDPOINT_URL_S3=", "AWS_EC2_METADATA_DISABLED=true",
		},
	}, nil
}

// tool finds a program that `make tools` builds.
func (d *demo) tool(name string) (string, error) {
	for _, dir := range []string{os.Getenv("GLIDE_TOOLS"), filepath.Join(d.cache, "bin")} {
		if dir == "" {
			continue
		}
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return filepath.Abs(path)
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s is not installed: run make tools", name)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
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
