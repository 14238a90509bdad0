package datadir

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/errs"
)

// TestMain makes the test program a second process that wants a directory.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DATADIR_LOCK"); dir != "" {
		if _, err := Lock(vfs.Default, dir); errors.Is(err, errs.Busy) {
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// refused tells whether another process is refused the directory.
func refused(t *testing.T, dir string) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DATADIR_LOCK="+dir)
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) {
		t.Fatal(err)
	}
	return err != nil
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	d, err := Lock(vfs.Default, dir)
	if err != nil {
		t.Fatal(err)
	}
	if !refused(t, dir) {
		t.Error("two processes have one directory")
	}
	if err := os.Remove(filepath.Join(dir, lockName)); err != nil {
		t.Fatal(err)
	}
	if !refused(t, dir) {
		t.Error("two processes have one directory whose lock file was removed")
	}
	// What the other one left is not locked; Check takes it.
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, lockName)); err != nil {
		t.Errorf("the lock file was not made again: %v", err)
	}
	if !refused(t, dir) {
		t.Error("the new lock file is not locked")
	}
	d.Close()
	if refused(t, dir) {
		t.Error("a directory that was given up is locked")
	}
}

func TestMoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := Lock(vfs.Default, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // without it, and with another in its place
		if err := d.Check(); err == nil || !strings.Contains(err.Error(), "is not the one") {
			t.Errorf("Check of a directory that was moved: %v", err)
		}
		_ = os.Mkdir(dir, 0o700)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".old", dir)); err != nil {
		t.Fatal(err)
	}
	if err := d.Check(); err != nil {
		t.Errorf("Check after it was put back: %v", err)
	}
}
