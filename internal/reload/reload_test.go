package reload

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReload(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "token")
	write := func(text string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	w := New(slog.New(slog.NewTextHandler(&log, nil)))
	value, loads := "", 0
	load := func() error {
		loads++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return errors.New("it is empty")
		}
		value = string(b)
		return nil
	}
	if err := w.Add("the token", load, path); err == nil || len(w.sources) != 0 {
		t.Fatalf("Add without a file: %v", err)
	}
	write("a")
	if err := w.Add("the token", load, path); err != nil {
		t.Fatal(err)
	}
	loads = 0
	step := func(what string, wantValue string, wantLoads int, wantErr bool) {
		t.Helper()
		loads = 0
		err := w.Read(false)
		if value != wantValue || loads != wantLoads || (err != nil) != wantErr {
			t.Errorf("%s: %q after %d loads, %v", what, value, loads, err)
		}
	}
	step("no change", "a", 0, false)
	write("b")
	step("a change", "b", 1, false)
	write("")
	step("an empty file", "b", 1, true)
	step("which is said once", "b", 0, false)
	if n := strings.Count(log.String(), "cannot be used"); n != 1 {
		t.Errorf("%d times: %s", n, log.String())
	}
	write("c")
	step("a good one again", "c", 1, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	step("none", "c", 1, true)
	step("none still", "c", 0, false)
	if err := w.Read(true); err == nil {
		t.Error("asked to read everything, it has no error for a file that is not there")
	}

	// A link to another directory, as orchestrators put secrets into place.
	for _, d := range []string{"1", "2"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, d), 0o700), os.WriteFile(filepath.Join(dir, d, "token"), []byte(d), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	point := func(d string) {
		t.Helper()
		tmp := filepath.Join(dir, "link")
		if err := errors.Join(os.Symlink(d, tmp), os.Rename(tmp, filepath.Join(dir, "now"))); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(dir, "now", "token")
	point("1")
	w = New(slog.New(slog.DiscardHandler))
	if err := w.Add("the token", load, path); err != nil {
		t.Fatal(err)
	}
	point("2")
	step("a link that was moved", "2", 1, false)
}
