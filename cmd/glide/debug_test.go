package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/meta"
	"github.com/paraglide/glide/internal/pack"
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
		"pack/testdata/v1.pack":                    "packs/65/65ea8a83081ed58bc32eacf3",
		"blockmap/testdata/one.hex":                "map page: version 1",
		"commitlog/testdata/commit.hex":            "commit log object: version 1",
		"blockmap/testdata/domains.hex":            "pack  2  d/0000002a/packs/78/78dde6e5fd29f05400000000-",
		"commitlog/testdata/domain-data.hex":       "in d/01020304/packs/c1/c1c1c1c1c1c1c1c1c1c1c1c1-",
		"pinobject/testdata/pin-domain-packs.json": `"0000002a.010000000000000000000000-000000000000000000000000"`,
	} {
		if o := run(t, glide(t, "debug", "dump", golden(t, path))); o.Code != 0 || o.Err != "" || !strings.Contains(o.Out, words) {
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
	if o := run(t, glide(t, "debug", "dump", write("host.json", `{"version":1,"id":"x"}`))); o.Code != 0 || !strings.Contains(o.Out, `"id": "x"`) {
		t.Errorf("host.json: %+v", o)
	}
	for path, words := range map[string]string{
		write("nothing", "what is this"):         "not a file of Glide",
		write("empty", ""):                       "not a file of Glide",
		write("half.json", `{"version"`):         "JSON",
		write("packs/00/1-2", "damaged at once"): "",
		write("1.seg", "damaged"):                "",
		write("1.slab", "damaged"):               "",
		dir:                                      "directory",
		filepath.Join(dir, "missing"):            "no file",
	} {
		o := run(t, glide(t, "debug", "dump", path))
		if o.Code == 0 || strings.Count(o.Err, "\n") != 1 || !strings.Contains(o.Err, words) {
			t.Errorf("%s: %+v", path, o)
		}
	}
}

// TestDumpPackOfDomain: a pack does not say its domain. The path of its file does.
func TestDumpPackOfDomain(t *testing.T) {
	raw, err := os.ReadFile("../../internal/pack/testdata/v1.pack")
	if err != nil {
		t.Fatal(err)
	}
	const key = "packs/65/65ea8a83081ed58bc32eacf3-0102030405060708090a0b0c"
	root := t.TempDir()
	for dir, want := range map[string]string{
		"":                          key,
		"d/0000002a/":               "d/0000002a/" + key,
		"d/store/":                  key,
		"d/0000002a/not-its-place/": key,
		"d/store/d/ffffffff/":       "d/ffffffff/" + key,
	} {
		path := filepath.Join(root, "of-"+strings.ReplaceAll(dir, "/", "-"), dir, key)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, raw, 0o600)); err != nil {
			t.Fatal(err)
		}
		if o := run(t, glide(t, "debug", "dump", path)); o.Code != 0 || !strings.Contains(o.Out, " "+want+"\n") {
			t.Errorf("%s: %+v", path, o)
		}
	}
}

// TestDumpSpares: a segment that nothing was written to is no damaged one.
func TestDumpSpares(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int64{"1.seg": 1 << 20, "2.seg": 0} {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err == nil {
			err = errors.Join(f.Truncate(size), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("spare, %d bytes: nothing was ever written", size)
		if o := run(t, glide(t, "debug", "dump", path)); o.Code != 0 || o.Err != "" || !strings.Contains(o.Out, want) {
			t.Errorf("%s: %+v", name, o)
		}
		var d api.Dump
		o := run(t, glide(t, "debug", "dump", "--json", path))
		if err := json.Unmarshal([]byte(o.Out), &d); err != nil || o.Code != 0 || d.Key != path || !strings.Contains(d.Text, want) {
			t.Errorf("%s: %+v: %v", name, o, err)
		}
	}
	path := filepath.Join(dir, "3.seg")
	if err := os.WriteFile(path, append(make([]byte, 8192), "something"...), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, run(t, glide(t, "debug", "dump", path)), 1, "magic")
	var d api.Dump
	if o := run(t, glide(t, "debug", "dump", "--json", path)); json.Unmarshal([]byte(o.Out), &d) != nil || o.Code != 1 || !strings.Contains(d.Damage, "magic") {
		t.Errorf("%+v", o)
	}
}

// TestDumpMetadata: the directory is decoded, its files are said to be part of it,
// and while a daemon has it open it is left alone.
func TestDumpMetadata(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "meta")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	db, err := meta.Open(meta.Options{FS: vfs.Default, Dir: dir})
	if err == nil {
		ref := pack.Ref{Hash: pack.Hash{1}, Off: 64, Len: 4096}
		err = errors.Join(db.SetFact("pins", []byte{1}), db.SetFact("first/default/gone", nil), db.SetFact("attachments", []byte(`[{"x":1}]`)),
			db.SaveVolumes(meta.Record{ID: "00ff", Value: []byte(`{"version":1,"name":"v"}`)}, meta.Record{ID: "01ff", Value: []byte(`{"ver`)}),
			db.AddBlocks("acme", []pack.Ref{ref}), db.AddPage(pack.Hash{2}, make([]byte, 100)))
	}
	if err != nil {
		t.Fatal(err)
	}
	refused(t, run(t, glide(t, "debug", "dump", dir)), 1, "in use by a daemon")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	o := run(t, glide(t, "debug", "dump", dir))
	if o.Code != 0 || o.Err != "" || strings.Contains(o.Out, "gone") {
		t.Fatalf("%+v", o)
	}
	for _, want := range []string{
		"metadata of a host: format 1\n", "fact pins: 01\n", "fact attachments: [{\"x\":1}]\n", "volume 00ff\n{\n  \"version\": 1,\n  \"name\": \"v\"\n}\n",
		"volume 01ff\ndamaged: 7b22766572\n", "block 0100000000000000000000000000000000000000000000000000000000000000 of tenant acme: 4096 bytes at 64 in packs/00/0000", "map page 0200", ": 100 bytes\n",
	} {
		if !strings.Contains(o.Out, want) {
			t.Errorf("%q is missing in:\n%s", want, o.Out)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, f := range files {
		refused(t, run(t, glide(t, "debug", "dump", filepath.Join(dir, f.Name()))), 2, "debug dump "+dir)
	}
	db, err = meta.Open(meta.Options{FS: vfs.Default, Dir: dir})
	if err != nil {
		t.Fatalf("it was changed: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDumpObjects(t *testing.T) {
	f := newFake(t, api.Options{})
	if out := f.must(t, "debug", "dump", "packs/good/1-2"); out != "pack: 1 slot\n" {
		t.Error(out)
	}
	if o := f.try(t, "debug", "dump", "packs/bad/1-2"); o.Code != 1 || o.Out != "pack: 1 slot\n" || !strings.Contains(o.Err, "checksum") {
		t.Errorf("%+v", o)
	}
	refused(t, f.try(t, "debug", "dump", "packs/none"), 1, "no object")
}

// TestFormats compares what version says with what the golden files are.
func TestFormats(t *testing.T) {
	for path, at := range map[string]int{"pack/testdata/v1.pack": 8, "blockmap/testdata/domains.hex": 2, "commitlog/testdata/domain-data.hex": 4, "wal/testdata/segment.hex": 4} {
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
