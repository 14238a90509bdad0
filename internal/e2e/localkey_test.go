package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// keyFile makes a key for --local-key.
func keyFile(t *testing.T) (provider string, key []byte) {
	t.Helper()
	key = make([]byte, 32)
	_, _ = rand.Read(key)
	path := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(path, key, 0o600))
	return "file:" + path, key
}

// hits returns, for each text, in which files under a directory it is found.
func hits(t *testing.T, dir string, texts ...[]byte) [][]string {
	t.Helper()
	found := make([][]string, len(texts))
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		var b []byte // without pages of zeros, of which spares of the log are full
		for page := range slices.Chunk(raw, 4096) {
			if len(bytes.TrimLeft(page, "\x00")) > 0 {
				b = append(b, page...)
			}
		}
		for i, text := range texts {
			if bytes.Contains(b, text) {
				found[i] = append(found[i], strings.TrimPrefix(path, dir))
			}
		}
		return err
	}))
	return found
}

// guestMarks are what a guest writes: random bytes at every alignment, and text among
// zeros, which the store compresses.
func guestMarks() (image []byte, marks [][]byte) {
	image = make([]byte, 4<<20)
	for i := range 64 {
		m := make([]byte, 64)
		if _, _ = rand.Read(m); i%2 == 1 {
			m = fmt.Appendf(nil, "a guest's secret %x", m[:20])
		}
		copy(image[i*65536+i*13:], m)
		marks = append(marks, m)
	}
	return image, marks
}

// TestLocalKey: nothing of what guests write, of names, and of keys is in the data directory
// of a host with its own key; neither in use, nor after kill -9, a sleep, or when the SSD tier
// is filled. The same run without a key finds all of it.
func TestLocalKey(t *testing.T) {
	for _, sealed := range []bool{true, false} {
		t.Run(fmt.Sprint("sealed=", sealed), func(t *testing.T) {
			store := "file://" + t.TempDir()
			provider, key := keyFile(t)
			var flags []string
			if sealed {
				flags = []string{"--local-key", provider}
			}
			d := newDaemon(t, store, flags...)
			d.start()
			image, marks := guestMarks()
			names := []string{"ledger-of-acme", "payroll-of-acme"}
			for i, name := range names {
				d.do("create", name, "--size", "64M", "--durability", []string{"local", "continuous"}[i])
				c := d.dial(name)
				must(t, c.Write(image, 1<<20, 0))
				must(t, c.Flush())
				must(t, c.Close())
			}
			look := func(when string, plain int) { // plain: how many texts are found without a key
				t.Helper()
				texts := slices.Concat(marks, [][]byte{[]byte(names[0]), []byte(names[1]), key, []byte(hex.EncodeToString(key))})
				for i, found := range hits(t, d.data, texts...) {
					if sealed && len(found) > 0 {
						t.Errorf("%s: text %d is in %v", when, i, found)
					}
					if !sealed && i < plain && len(found) == 0 {
						t.Errorf("%s: text %d is not found without a key: this test finds nothing", when, i)
					}
				}
			}
			look("in the log", len(marks)+len(names))
			d.do("flush", names[1])
			d.do("snapshot", names[1], "snap-of-acme")
			d.kill()
			look("after kill -9", 0)
			d.start()
			for _, name := range names {
				got := make([]byte, len(image))
				c := d.dial(name)
				must(t, c.Read(got, 1<<20))
				must(t, c.Close())
				if !bytes.Equal(got, image) {
					t.Fatalf("%s reads back wrong", name)
				}
			}
			d.do("sleep", names[1])
			d.do("fork", names[1], "fork-of-acme")
			d.do("hydrate", "fork-of-acme")
			look("asleep, and hydrated", len(marks)) // the database compresses what has names
			d.stop()
			look("stopped", len(marks))
		})
	}
}

// TestLocalKeySwitchedOn: a host that was plain is sealed by a start with a key: its volumes
// are there, and names and structure are sealed at once. Without the key, or with another,
// it does not start again, says why in one line, and changes nothing.
func TestLocalKeySwitchedOn(t *testing.T) {
	provider, _ := keyFile(t)
	other, _ := keyFile(t)
	d := newDaemon(t, "file://"+t.TempDir())
	d.start()
	d.do("create", "ledger-of-acme", "--size", "64M")
	image, marks := guestMarks()
	c := d.dial("ledger-of-acme")
	must(t, c.Write(image, 0, 0))
	must(t, c.Flush())
	must(t, c.Close())
	d.stop()

	d.flags = []string{"--local-key", provider}
	d.start()
	if found := hits(t, d.data, []byte("ledger-of-acme"))[0]; len(found) > 0 {
		t.Errorf("the volume's name is still in %v", found)
	}
	d.do("flush", "ledger-of-acme")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		left := 0
		for _, found := range hits(t, d.data, marks...) {
			left += len(found)
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d marks that were plain are still there, though the volume was flushed", left)
		}
	}
	d.stop()

	for _, x := range []struct{ flag, says string }{{"", "give the --local-key that it had"}, {other, "give the --local-key that the directory was sealed with"}, {provider + "-away", "nothing is lost"}} {
		d.flags = nil
		if x.flag != "" {
			d.flags = []string{"--local-key", x.flag}
		}
		before := d.log.String()
		if err := d.tryStart(); err == nil {
			t.Fatalf("it started with %q", x.flag)
		}
		d.kill()
		said := strings.TrimPrefix(d.log.String(), before)
		if !strings.Contains(said, x.says) {
			t.Errorf("with %q it says %q", x.flag, said)
		}
	}
	d.flags = []string{"--local-key", provider}
	d.start()
	got := make([]byte, len(image))
	c = d.dial("ledger-of-acme")
	must(t, c.Read(got, 0))
	must(t, c.Close())
	if !bytes.Equal(got, image) {
		t.Fatal("it reads back wrong")
	}
}
