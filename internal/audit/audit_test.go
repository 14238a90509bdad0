package audit

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func open(t *testing.T, path string) *Log {
	t.Helper()
	l := must[*Log](t)(Open(path, time.Now, slog.New(slog.DiscardHandler)))
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// TestChain: lines of several runs follow each other, also when they are written at once.
func TestChain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	for range 3 {
		l := open(t, path)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { l.Write(Entry{Who: "token x", What: strings.Repeat("<", 1000), Outcome: "ok"}) })
		}
		wg.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := Check(path); n != 60 || err != nil {
		t.Errorf("%d lines, %v", n, err)
	}
	if st := must[os.FileInfo](t)(os.Stat(path)); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
}

// TestChanged: whatever is changed in the file but the last line shows, and the daemon does
// not go on with it.
func TestChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, path)
	for _, who := range []string{"a", "b", "c", "d"} {
		l.Write(Entry{Who: who, Outcome: "ok"})
	}
	raw := must[[]byte](t)(os.ReadFile(path))
	lines := bytes.SplitAfter(raw, []byte("\n"))[:4]
	join := func(list ...[]byte) []byte { return bytes.Join(list, nil) }
	bad := map[string][]byte{
		"one taken out": join(lines[0], lines[2], lines[3]), "one doubled": join(lines[0], lines[1], lines[1], lines[2], lines[3]),
		"two swapped": join(lines[0], lines[2], lines[1], lines[3]), "one changed": bytes.Replace(raw, []byte(`"b"`), []byte(`"x"`), 1),
		"another file": []byte("hello\nworld\n"), "a long line": bytes.Repeat([]byte("x"), 2*maxLine),
	}
	for what, b := range bad {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := Check(path); !errors.Is(err, errs.Corrupt) {
			t.Errorf("%s: %d lines, %v", what, n, err)
		}
		if _, err := Open(path, time.Now, slog.Default()); !errors.Is(err, errs.Corrupt) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestTorn: a crash may cut the last line off anywhere; the chain goes on after it.
func TestTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, path)
	for range 3 {
		l.Write(Entry{Who: "a", Outcome: "ok"})
	}
	raw := must[[]byte](t)(os.ReadFile(path))
	last := bytes.LastIndexByte(raw[:len(raw)-1], '\n') + 1
	for n := last; n < len(raw); n++ {
		if err := os.WriteFile(path, raw[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, path)
		l.Write(Entry{Who: "after", Outcome: "ok"})
		if n, err := Check(path); err != nil || n < 3 {
			t.Fatalf("cut off at %d: %d lines, %v", n, n, err)
		}
	}
}

// TestMoved: a file that is moved away is followed by a new one, which goes on with the chain.
func TestMoved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit")
	l := open(t, path)
	l.Write(Entry{Who: "a", Outcome: "ok"})
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Write(Entry{Who: "b", Outcome: "ok"})
	whole := append(must[[]byte](t)(os.ReadFile(path+".1")), must[[]byte](t)(os.ReadFile(path))...)
	if err := os.WriteFile(filepath.Join(dir, "whole"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Check(filepath.Join(dir, "whole")); n != 2 || err != nil {
		t.Errorf("%d lines, %v", n, err)
	}
}

// TestUnwritable: what cannot be written is in the daemon's log, and nothing stops.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	l := must[*Log](t)(Open(filepath.Join(dir, "d"), time.Now, slog.New(slog.NewTextHandler(&log, nil))))
	if err := errors.Join(os.Remove(filepath.Join(dir, "d")), os.Mkdir(filepath.Join(dir, "d"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		l.Write(Entry{Who: "somebody", Outcome: "ok"})
	}
	if n := strings.Count(log.String(), "cannot be written"); n != 1 || !strings.Contains(log.String(), "somebody") {
		t.Errorf("%s", log.String())
	}
	var none *Log
	none.Write(Entry{})
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}
