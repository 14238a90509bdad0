package nbd_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/programs"
	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// tool runs a client of the real world and returns what it printed. It must succeed.
func tool(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := tryTool(tb, name, args...)
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// tryTool runs a client that may fail.
func tryTool(tb testing.TB, name string, args ...string) (string, error) {
	tb.Helper()
	cmd := exec.Command(programs.Need(tb, name), args...)
	cmd.Dir = tb.TempDir() // fio leaves files behind
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// uri is the NBD URI of an export.
func (s *server) uri(export string) string { return "nbd+unix:///" + export + "?socket=" + s.socket }

// image writes a file of 16 MiB with data and holes.
func image(tb testing.TB) (path string, content []byte) {
	tb.Helper()
	content = make([]byte, 16*mib)
	for i, r := range [][2]int{{0, 1}, {4096, 100_000}, {5 * mib, mib}, {9*mib - 5, 10}, {16*mib - 4096, 4096}} {
		copy(content[r[0]:], pattern(r[1], uint64(i)))
	}
	path = filepath.Join(tb.TempDir(), "image.raw")
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for off := 0; off < len(content); off += 4096 {
		if page := content[off : off+4096]; !bytes.Equal(page, make([]byte, 4096)) {
			if _, err := f.WriteAt(page, int64(off)); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		tb.Fatal(err)
	}
	return path, content
}

// wantContent checks the first bytes of the device.
func (s *server) wantContent(tb testing.TB, want []byte) {
	tb.Helper()
	got := make([]byte, len(want))
	if err := s.mem.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		tb.Errorf("the device has something else (%v)", err)
	}
}

// serve16 serves a device of the size of image.
func serve16(tb testing.TB, o nbd.Options) *server {
	tb.Helper()
	s := serve(tb, o)
	s.mem.Resize(16 * mib)
	return s
}

func TestNbdinfo(t *testing.T) {
	t.Parallel()
	s := serve16(t, nbd.Options{})
	_, content := image(t)
	c := s.client(t, nbdclient.Options{})
	if err := c.Write(content[5*mib:6*mib], 5*mib, 0); err != nil {
		t.Fatal(err)
	}
	var info struct {
		Protocol          string
		TLS               bool
		StructuredReplies bool `json:"structured"`
		Exports           []map[string]any
	}
	out := tool(t, "nbdinfo", "--json", s.uri(""))
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		t.Fatal(err)
	}
	if info.Protocol != "newstyle-fixed" || info.TLS || !info.StructuredReplies || len(info.Exports) != 1 {
		t.Fatalf("nbdinfo:\n%s", out)
	}
	for key, want := range map[string]any{
		"export-size": 16.0 * mib, "is_read_only": false, "can_flush": true, "can_fua": true, "can_trim": true,
		"can_zero": true, "can_fast_zero": true, "can_df": true, "can_cache": true, "can_multi_conn": true,
		"block_size_minimum": 1.0, "block_size_preferred": 4096.0, "block_size_maximum": 32.0 * mib,
		"description": "in memory", "contexts": []any{"base:allocation", "glide:dirty"},
	} {
		if got := info.Exports[0][key]; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("nbdinfo: %s is %v, want %v", key, got, want)
		}
	}
	if out := tool(t, "nbdinfo", "--list", s.uri("")); !strings.Contains(out, `export="ro"`) || !strings.Contains(out, `export=""`) {
		t.Errorf("nbdinfo --list:\n%s", out)
	}
	if out := tool(t, "nbd-client", "-l", "-unix", s.socket); !strings.Contains(out, "\nro\n") {
		t.Errorf("nbd-client -l:\n%s", out)
	}
	if out := tool(t, "nbdinfo", "--is", "read-only", s.uri("ro")); out != "" {
		t.Errorf("nbdinfo --is read-only: %s", out)
	}
	for context, want := range map[string]string{
		"base:allocation": "0 5242880 3 hole,zero\n5242880 1048576 0 data\n6291456 10485760 3 hole,zero",
		"glide:dirty":     "0 5242880 0\n5242880 1048576 1\n6291456 10485760 0",
	} {
		out := tool(t, "nbdinfo", "--map="+context, s.uri(""))
		var got []string
		for line := range strings.Lines(out) {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
		if strings.Join(got, "\n") != want {
			t.Errorf("nbdinfo --map=%s:\n%s\nwant\n%s", context, out, want)
		}
	}
	if out, err := tryTool(t, "nbdinfo", s.uri("nix")); err == nil || !strings.Contains(out, "No such file or directory for export: nix") {
		t.Errorf("nbdinfo of an unknown export: %v\n%s", err, out)
	}
}

func TestNbdcopy(t *testing.T) {
	t.Parallel()
	path, content := image(t)
	for _, args := range [][]string{nil, {"--connections=1", "--requests=1"}, {"--request-size=33554432", "--no-extents"}, {"--synchronous"}, {"--allocated"}} {
		for _, cold := range []bool{false, true} {
			s := serve16(t, nbd.Options{})
			s.mem.Cold.Store(cold)
			tool(t, "nbdcopy", append(args, "--flush", path, s.uri(""))...)
			s.wantContent(t, content)
			if s.mem.Flushes.Load() == 0 {
				t.Errorf("nbdcopy %v --flush did not flush", args)
			}
			back := filepath.Join(t.TempDir(), "back.raw")
			tool(t, "nbdcopy", append(args, s.uri(""), back)...)
			if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, content) {
				t.Errorf("nbdcopy %v: what came back is different (%v)", args, err)
			}
			if cold {
				continue
			}
			// From server to server, read-only to writable, over what is there.
			to := serve16(t, nbd.Options{})
			if err := to.mem.WriteFrames([]uint64{7 * mib}, [][]byte{make([]byte, 28+mib)}); err != nil {
				t.Fatal(err)
			}
			tool(t, "nbdcopy", append(args, s.uri("ro"), to.uri(""))...)
			to.wantContent(t, content)
		}
	}
}

func TestQemu(t *testing.T) {
	t.Parallel()
	path, content := image(t)
	s := serve16(t, nbd.Options{})
	tool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", path, s.uri(""))
	s.wantContent(t, content)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", path, s.uri(""))
	back := filepath.Join(t.TempDir(), "back.qcow2")
	tool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", s.uri("ro"), back)
	tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", back, s.uri(""))

	var extents []struct {
		Start, Length int
		Data, Zero    bool
	}
	out := tool(t, "qemu-img", "map", "-f", "raw", "--output=json", s.uri(""))
	if err := json.Unmarshal([]byte(out), &extents); err != nil {
		t.Fatal(err)
	}
	data := 0
	for _, e := range extents {
		if e.Data {
			data += e.Length
		} else if !e.Zero {
			t.Errorf("qemu-img map: %+v is neither data nor zero", e)
		}
	}
	if data < mib || data > 2*mib {
		t.Errorf("qemu-img map: %d bytes of data\n%s", data, out)
	}

	flushes := s.mem.Flushes.Load()
	script := []string{
		"write -P 0x11 0 1M", "read -P 0x11 0 1M", "write -f -P 0x22 4097 513", "read -P 0x22 4097 513",
		"read -P 0x11 4096 1", "read -P 0x11 4610 1000", "write -z 64k 64k", "read -P 0 64k 64k",
		"write -z -u 128k 4k", "write -z -n 132k 4k", "discard 256k 128k", "read -P 0 256k 128k", "flush",
		"aio_write -P 0x33 512k 64k", "aio_write -P 0x44 576k 64k", "aio_flush",
		"read -P 0x33 512k 64k", "read -P 0x44 576k 64k", "writev -P 0x55 3M 512 1k 512", "readv -P 0x55 3M 512 1k 512",
		"truncate 16M", "length",
	}
	args := []string{"-f", "raw", "-t", "writeback"}
	for _, line := range script {
		args = append(args, "-c", line)
	}
	out = tool(t, "qemu-io", append(args, s.uri(""))...)
	if strings.Contains(out, "failed") || strings.Contains(out, "error") {
		t.Errorf("qemu-io:\n%s", out)
	}
	if s.mem.Flushes.Load() == flushes {
		t.Error("qemu-io did not flush")
	}
	if out, err := tryTool(t, "qemu-io", "-f", "raw", "-c", "write 0 1", s.uri("ro")); err == nil && !strings.Contains(out, "read-only") {
		t.Errorf("qemu-io wrote to a read-only export:\n%s", out)
	}
}

func TestFioVerify(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--rw=randwrite", "--bsrange=512-64k", "--iodepth=16", "--verify=crc32c"},
		{"--rw=randwrite", "--bs=4k", "--iodepth=32", "--verify=crc32c", "--fsync=8"},
		{"--rw=write", "--bs=128k", "--iodepth=8", "--verify=crc32c", "--trim_percentage=10"},
	} {
		s := serve16(t, nbd.Options{})
		common := []string{"--name=job", "--ioengine=nbd", "--uri=" + s.uri(""), "--size=16M", "--verify_fatal=1", "--randseed=1"}
		tool(t, "fio", append(common, args...)...)
		s.mem.Cold.Store(true)
		tool(t, "fio", append(common, append(args, "--verify_only")...)...)
	}
}

// TestTCP serves on TCP what the other tests do on unix sockets.
func TestTCP(t *testing.T) {
	t.Parallel()
	path, content := image(t)
	s := serve16(t, nbd.Options{})
	_, addr := serveAt(t, "tcp", "127.0.0.1:0", s.exports, nbd.Options{})
	uri := "nbd://" + addr.String() + "/"
	tool(t, "nbdcopy", "--flush", path, uri)
	s.wantContent(t, content)
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", path, uri)
}

func TestClientsWithTLS(t *testing.T) {
	t.Parallel()
	p := newPKI(t)
	path, content := image(t)
	for _, mode := range []nbd.TLSMode{nbd.TLSAllow, nbd.TLSRequire} {
		s := serve16(t, nbd.Options{})
		_, addr := serveAt(t, "tcp", "127.0.0.1:0", s.exports, nbd.Options{TLS: mode, TLSConfig: p.server})
		uri := fmt.Sprintf("nbds://%s/?tls-certificates=%s", addr, p.dir)
		out := tool(t, "nbdinfo", "--json", uri)
		if !strings.Contains(out, `"TLS": true`) {
			t.Errorf("nbdinfo over TLS:\n%s", out)
		}
		tool(t, "nbdcopy", "--flush", path, uri)
		s.wantContent(t, content)
		host, port, _ := strings.Cut(addr.String(), ":")
		opts := fmt.Sprintf("driver=nbd,server.type=inet,server.host=%s,server.port=%s,tls-creds=tls0,tls-hostname=localhost", host, port)
		creds := "tls-creds-x509,id=tls0,endpoint=client,dir=" + p.dir
		back := filepath.Join(t.TempDir(), "back.raw")
		tool(t, "qemu-img", "convert", "--object", creds, "--image-opts", opts, "-O", "raw", back)
		if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, content) {
			t.Errorf("qemu-img over TLS: what came back is different (%v)", err)
		}
		plain, err := tryTool(t, "nbdinfo", "nbd://"+addr.String()+"/")
		if refused := err != nil; refused != (mode == nbd.TLSRequire) {
			t.Errorf("mode %d: nbdinfo without TLS: %v\n%s", mode, err, plain)
		}
	}
}

// TestBothServers copies to nbdkit and back, another implementation's view of
// what we send.
func TestBothServers(t *testing.T) {
	t.Parallel()
	path, content := image(t)
	s := serve16(t, nbd.Options{})
	tool(t, "nbdcopy", path, s.uri(""))
	back := filepath.Join(t.TempDir(), "back.raw")
	out := tool(t, "nbdkit", "-U", "-", "memory", "16M",
		"--run", fmt.Sprintf("nbdcopy '%s' \"$uri\" && nbdcopy \"$uri\" '%s'", s.uri(""), back))
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, content) {
		t.Errorf("what came back is different (%v)\n%s", err, out)
	}
}
