package main

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/paraglide/glide/internal/api"
)

// golden is a file of another package's testdata, as it is on a disk.
func golden(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "internal", path))
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Ext(path) == ".hex" {
		var digits strings.Builder
		for _, line := range strings.Split(string(b), "\n") {
			if bytes, _, ok := strings.Cut(line, "|"); ok { // as hexdump -C has it
				_, line, _ = strings.Cut(bytes, " ")
			}
			digits.WriteString(regexp.MustCompile(`\s`).ReplaceAllString(line, ""))
		}
		if b, err = hex.DecodeString(digits.String()); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	out := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(out, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestDumpFiles: files are known by what they begin with, and need no daemon.
func TestDumpFiles(t *testing.T) {
	for path, words := range map[string]string{
		"pack/testdata/v1.pack":         "packs/65/65ea8a83081ed58bc32eacf3",
		"blockmap/testdata/one.hex":     "map page: version 1",
		"commitlog/testdata/commit.hex": "commit log object: version 1",
	} {
		if o := run(t, glide(t, "debug", "dump", golden(t, path))); o.code != 0 || o.err != "" || !strings.Contains(o.out, words) {
			t.Errorf("%s: %+v", path, o)
		}
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if o := run(t, glide(t, "debug", "dump", write("host.json", `{"version":1,"id":"x"}`))); o.code != 0 || !strings.Contains(o.out, `"id": "x"`) {
		t.Errorf("host.json: %+v", o)
	}
	for path, words := range map[string]string{
		write("nothing", "what is this"):         "no file of Glide's",
		write("empty", ""):                       "no file of Glide's",
		write("half.json", `{"version"`):         "JSON",
		write("packs/00/1-2", "damaged at once"): "",
		write("1.seg", "damaged"):                "",
		write("1.slab", "damaged"):               "",
		dir:                                      "directory",
		filepath.Join(dir, "missing"):            "no file",
	} {
		o := run(t, glide(t, "debug", "dump", path))
		if o.code == 0 || strings.Count(o.err, "\n") != 1 || !strings.Contains(o.err, words) {
			t.Errorf("%s: %+v", path, o)
		}
	}
}

func TestDumpObjects(t *testing.T) {
	f := newFake(t, api.Options{})
	if out := f.must(t, "debug", "dump", "packs/good/1-2"); out != "pack: 1 slot\n" {
		t.Error(out)
	}
	if o := f.try(t, "debug", "dump", "packs/bad/1-2"); o.code != 1 || o.out != "pack: 1 slot\n" || !strings.Contains(o.err, "checksum") {
		t.Errorf("%+v", o)
	}
	refused(t, f.try(t, "debug", "dump", "packs/none"), 1, "no object")
}

// TestFormats compares what version says with what the golden files are.
func TestFormats(t *testing.T) {
	for path, at := range map[string]int{"pack/testdata/v1.pack": 8, "blockmap/testdata/one.hex": 2, "commitlog/testdata/commit.hex": 4, "wal/testdata/segment.hex": 4} {
		b, err := os.ReadFile(golden(t, path))
		if err != nil {
			t.Fatal(err)
		}
		name := map[string]string{"pack": "pack", "blockmap": "map-page", "commitlog": "commit", "wal": "wal"}[strings.Split(path, "/")[0]]
		if int(b[at]) != formats[name] {
			t.Errorf("%s has version %d, glide version says %d", name, b[at], formats[name])
		}
	}
}
