package guest

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	servers "github.com/paraglide/glide/internal/daemon"
	"github.com/paraglide/glide/internal/programs"
)

// build makes the guest where the demo has it, too; with more packages it is
// one of these tests' own.
func build(t *testing.T, more ...string) Image {
	t.Helper()
	if testing.Short() {
		t.Skip("boots virtual machines")
	}
	for _, name := range []string{"qemu-system-x86_64", "qemu-nbd", "busybox", "debootstrap", "mkfs.ext4", "e2fsck"} {
		programs.Need(t, name)
	}
	if os.Geteuid() != 0 {
		programs.Need(t, "sudo")
	}
	if _, _, err := findKernel(); err != nil {
		programs.Missing(t, err)
	}
	im, err := Build(t.Context(), filepath.Join("..", "..", ".cache", "guest"), func(s string) { t.Log(s) }, more...)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func TestBootRunsTheScript(t *testing.T) {
	im := build(t)
	t.Parallel()
	vm := VM{Kernel: im.Kernel, Initrd: im.Initrd, Disk: im.Path, Snapshot: true}
	vm.Script = `. /etc/os-release; echo "$ID"; echo hello >/srv/f; sync /srv/f; cat /srv/f; printf partial`
	r, err := Boot(t.Context(), vm)
	if err != nil || r.Output != "debian\nhello\npartial\n" || r.Exit != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	t.Logf("init after %v, off after %v", r.Init, r.Total)

	vm.Script = "echo oops; exit 7"
	if r, err := Boot(t.Context(), vm); err == nil || r.Exit != 7 || !strings.Contains(err.Error(), "oops") {
		t.Errorf("a script that fails: %+v, %v", r, err)
	}
}

func TestBootEndsInTime(t *testing.T) {
	im := build(t)
	vm := VM{Kernel: im.Kernel, Initrd: im.Initrd, Disk: im.Path, Snapshot: true, Script: "sleep 1000", Timeout: 3 * time.Second}
	started := time.Now()
	if _, err := Boot(t.Context(), vm); err == nil || !strings.Contains(err.Error(), "not done after 3s") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := Boot(ctx, vm); err == nil {
		t.Error("no error when the context ended")
	}
	if d := time.Since(started); d > 15*time.Second {
		t.Errorf("took %v", d)
	}
}

// TestKernelClient proves the scenario against a server that is not ours, and
// then our server by the scenario.
func TestKernelClient(t *testing.T) {
	im := build(t)
	t.Parallel()
	for _, s := range []struct {
		name  string
		start func(t *testing.T, port int, export string)
	}{{"qemu-nbd", qemuNBD}, {"glide", glide}} {
		t.Run(s.name, func(t *testing.T) {
			port := freePort(t)
			s.start(t, port, "vol")
			r, err := kernelClient(t.Context(), VM{Kernel: im.Kernel, Initrd: im.Initrd, Disk: im.Path, Snapshot: true}, port, "vol")
			if err != nil {
				t.Fatalf("%v\n%s", err, r.Output)
			}
			t.Logf("init after %v, off after %v\n%s", r.Init, r.Total, r.Output)
			if !strings.HasSuffix(r.Output, "32 files checked\n") {
				t.Errorf("it said: %s", r.Output)
			}
		})
	}
}

// qemuNBD serves an empty disk with QEMU's server.
func qemuNBD(t *testing.T, port int, export string) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 1<<30); err != nil {
		t.Fatal(err)
	}
	serve(t, port, "qemu-nbd", "-t", "-f", "raw", "--discard=unmap", "-b", "127.0.0.1", "-p", strconv.Itoa(port), "-x", export, disk)
}

// glide serves an empty volume with the binary that the Makefile built.
func glide(t *testing.T, port int, export string) {
	d := newDaemon(t, "--nbd", "tcp:127.0.0.1:"+strconv.Itoa(port))
	d.start()
	d.do("create", export, "--size", "1G")
}

// serve starts a server, waits until it listens, and stops it after the test.
func serve(t *testing.T, port int, program string, args ...string) {
	t.Helper()
	p, err := servers.Start(exec.Command(program, args...), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s said: %s", program, p.Log)
		}
	})
	if err := p.WaitListening(t.Context(), "127.0.0.1:"+strconv.Itoa(port), 20*time.Second); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	addr, err := servers.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := net.SplitHostPort(addr)
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return port
}
