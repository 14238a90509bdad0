package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
)

// terminal opens a pseudo terminal: what a program sees, and what it shows.
func terminal(t *testing.T) (tty *os.File, shown func() string) {
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
		tty, shown := terminal(t)
		cmd := glide(t, append([]string{"--api", f.addr}, strings.Fields(c.args)...)...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, tty
		ended := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Run() // the status tells
		ended.Stop()
		text := shown()
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			t.Errorf("glide %s: exit %d\n%q", c.args, code, text)
		}
		if !strings.Contains(text, c.bar) {
			t.Errorf("glide %s drew %q", c.args, text)
		}
		if c.code == 0 && out.Len() == 0 {
			t.Errorf("glide %s printed nothing", c.args)
		}
	}
}
