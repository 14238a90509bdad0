package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// pty opens a pseudo terminal: what a program sees, and what it shows.
func pty(t *testing.T) (tty *os.File, shown func() string) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(screen.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 120}); err != nil {
		t.Fatal(err)
	}
	text := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(screen) // an error is the end: nobody has the terminal any more
		text <- string(b)
	}()
	return tty, func() string {
		t.Helper()
		_ = tty.Close()
		select {
		case s := <-text:
			_ = screen.Close()
			return s
		case <-time.After(10 * time.Second):
			t.Fatal("the terminal is still in use")
			return ""
		}
	}
}

// TestProgress: bars are drawn on a terminal and gone in the end, whether it
// went well or not; elsewhere nothing is drawn.
func TestProgress(t *testing.T) {
	f := newFake(t, api.Options{})
	dir := t.TempDir()
	raw := filepath.Join(dir, "raw")
	sparse(t, raw)
	cut := filepath.Join(dir, "cut")
	qemuImg(t, "convert", "-f", "raw", "-O", "qcow2", raw, cut)
	if err := os.Truncate(cut, 400_000); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		code int
		bar  string
	}{
		{"import " + raw + " a", 0, "importing"},
		{"import " + cut + " b", 1, "importing"},
		{"export a " + filepath.Join(dir, "out"), 0, "exporting"},
		{"flush a", 0, "flushing"},
		{"verify a", 0, "verifying"},
		{"sleep a", 0, "going to sleep"},
		{"wake a", 0, "waking"},
	} {
		code, out, text := onTerminal(t, append([]string{"--api", f.addr}, strings.Fields(c.args)...)...)
		if code != c.code {
			t.Errorf("glide %s: exit %d\n%q", c.args, code, text)
		}
		if !strings.Contains(text, c.bar) {
			t.Errorf("glide %s drew %q", c.args, text)
		}
		// What the daemon does is shown as a bar once it tells how far it is.
		if told := c.bar != "importing" && c.bar != "exporting"; told && !strings.Contains(text, " MiB of 3 MiB ") {
			t.Errorf("glide %s drew no bar: %q", c.args, text)
		}
		if code == 0 && out == "" {
			t.Errorf("glide %s printed nothing", c.args)
		}
		r := run(t, glide(t, append([]string{"--api", f.addr}, strings.Fields(c.args)...)...))
		if strings.Contains(r.Err, c.bar) {
			t.Errorf("glide %s drew a bar where there is no terminal: %q", c.args, r.Err)
		}
	}
}

// onTerminal runs glide with a terminal for its standard error, and returns what that shows.
func onTerminal(t *testing.T, args ...string) (code int, out, shown string) {
	t.Helper()
	tty, screen := pty(t)
	cmd := glide(t, args...)
	var b strings.Builder
	cmd.Stdout, cmd.Stderr = &b, tty
	ended := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	_ = cmd.Run() // the status tells
	ended.Stop()
	return cmd.ProcessState.ExitCode(), b.String(), screen()
}

// TestProgressOfDaemons: the bar follows what real daemons do, also one that is
// asked by another.
func TestProgressOfDaemons(t *testing.T) {
	store := "file://" + t.TempDir()
	a, b := start(t, shortDir(t), nil, "--store", store), start(t, shortDir(t), nil, "--store", store)
	a.must("create", "v", "--size", "1G")
	write := func() {
		c, err := nbdclient.Dial(t.Context(), "unix", filepath.Join(a.data, "nbd.sock"), nbdclient.Options{Export: "v"})
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 32<<20)
		for i := range uint64(2) {
			_, _ = rand.Read(data) // it never fails
			if err := c.Write(data, i*32<<20, 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		on          *serving
		args, shows string
	}{
		{a, "flush v", "flushing"},
		{a, "verify v --cold", "verifying"},
		{b, "wake v", "waking"},
		{b, "sleep v --portable", ""}, // nothing is to be done
		{a, "wake v", ""},
		{a, "sleep v --portable", "going to sleep"},
	} {
		if c.on == a && c.args == "flush v" || c.shows == "waking" || c.shows == "going to sleep" {
			write()
		}
		code, _, text := onTerminal(t, append([]string{"--api", "unix:" + filepath.Join(c.on.data, "api.sock")}, strings.Fields(c.args)...)...)
		total := "of 64 MiB"
		if c.shows == "verifying" {
			total = "of 1 GiB"
		}
		if code != 0 || c.shows != "" && (!strings.Contains(text, c.shows) || !strings.Contains(text, total)) {
			t.Errorf("glide %s: exit %d, and drew %q", c.args, code, text)
		}
	}
}
