package image

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/paraglide/glide/internal/errs"
)

// noise is n random bytes, the same each time.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

// at is n random bytes with parts at places.
func at(n int, parts map[int]string) []byte {
	b := noise(n)
	for off, s := range parts {
		copy(b[off:], s)
	}
	return b
}

func qemuImage(t testing.TB, args ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	raw, path := filepath.Join(dir, "raw"), filepath.Join(dir, "image")
	pattern(t, raw, 4<<20)
	qemuImg(t, append(append([]string{"convert", "-f", "raw", "-O"}, args...), raw, path)...)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gzipped(b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, _ = w.Write(b)
	_ = w.Close()
	return buf.Bytes()
}

func zstded(b []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(b, nil)
}

func tarred(name string, format tar.Format) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	b := noise(5000)
	_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Format: format})
	_, _ = w.Write(b)
	_ = w.Close()
	return buf.Bytes()
}

func zipped() []byte {
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	f, _ := w.Create("disk.raw")
	_, _ = f.Write(noise(5000))
	_ = w.Close()
	return buf.Bytes()
}

// oldTar is a tar archive without the magic number that POSIX gave it.
func oldTar() []byte {
	b := tarred("disk.raw", tar.FormatUSTAR)
	clear(b[257:512])
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], []byte{byte('0' + sum>>15&7), byte('0' + sum>>12&7), byte('0' + sum>>9&7), byte('0' + sum>>6&7), byte('0' + sum>>3&7), byte('0' + sum&7), 0, ' '})
	return b
}

// gpt is the beginning of a disk of so many bytes, with a GUID partition table.
func gpt(size uint64) []byte {
	b := make([]byte, 128<<10)
	h := b[512 : 512+92]
	copy(h, "EFI PART\x00\x00\x01\x00")
	binary.LittleEndian.PutUint32(h[12:], 92)
	binary.LittleEndian.PutUint64(h[24:], 1)
	binary.LittleEndian.PutUint64(h[32:], size/512-1)
	binary.LittleEndian.PutUint64(h[40:], 34)
	binary.LittleEndian.PutUint64(h[48:], size/512-34)
	binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h))
	return b
}

func mbr() []byte {
	b := make([]byte, 128<<10)
	b[510], b[511] = 0x55, 0xaa
	copy(b[446:], "\x80\x20\x21\x00\x83\xfe\xff\xff\x00\x08\x00\x00\x00\xf8\x01\x00")
	return b
}

// TestRefused offers, as a file and as a stream whose size is announced or not,
// what people hand to an import by mistake. It is refused by name, with a way out,
// before anything can be made of it.
func TestRefused(t *testing.T) {
	page := "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"
	disk := mbr()
	pe := at(8<<10, map[int]string{0: "MZ", 60: "\x80\x00\x00\x00", 0x80: "PE\x00\x00"})
	for name, c := range map[string]struct {
		b    []byte
		want string // in the message
	}{
		"qcow1":             {qemuImage(t, "qcow"), "qemu-img convert -f qcow -O qcow2"},
		"vmdk":              {qemuImage(t, "vmdk"), "qemu-img convert -f vmdk -O qcow2"},
		"vmdk, streamed":    {qemuImage(t, "vmdk", "-o", "subformat=streamOptimized"), "VMDK"},
		"vmdk, descriptor":  {[]byte("# Disk DescriptorFile\nversion=1\nCID=1\n"), "descriptor of a VMDK"},
		"vmdk, spaces":      {[]byte("\n  # DISK descriptorFile\nversion=1\n"), "descriptor of a VMDK"},
		"vmdk, ESX":         {at(1<<20, map[int]string{0: "COWD\x01\x00\x00\x00"}), "VMDK"},
		"vhd, fixed":        {qemuImage(t, "vpc", "-o", "subformat=fixed,force_size"), "qemu-img convert -f vpc -O qcow2"},
		"vhd, old":          {append(disk, at(511, map[int]string{0: "conectix"})...), "VHD"},
		"vhd":               {qemuImage(t, "vpc"), "VHD"},
		"vhdx":              {qemuImage(t, "vhdx"), "VHDX"},
		"vdi":               {qemuImage(t, "vdi"), "VDI"},
		"qed":               {qemuImage(t, "qed"), "QED"},
		"parallels":         {qemuImage(t, "parallels"), "Parallels"},
		"parallels, old":    {at(70<<10, map[int]string{0: "WithoutFreeSpace"}), "Parallels"},
		"bochs":             {at(70<<10, map[int]string{0: "Bochs Virtual HD Image\x00"}), "Bochs"},
		"cloop":             {at(70<<10, map[int]string{0: "#!/bin/sh\n#V2.0 Format\n"}), "cloop"},
		"dmg":               {append(slices.Clone(disk), append([]byte("koly"), make([]byte, 508)...)...), "DMG"},
		"android":           {at(70<<10, map[int]string{0: "\x3a\xff\x26\xed\x01\x00\x00\x00"}), "simg2img"},
		"wim":               {at(70<<10, map[int]string{0: "MSWIM\x00\x00\x00"}), "WIM"},
		"ewf":               {at(70<<10, map[int]string{0: "EVF\x09\x0d\x0a\xff\x00"}), "E01"},
		"aff":               {at(70<<10, map[int]string{0: "AFF10\x0d\x0a\x00"}), "Forensics"},
		"xz":                {at(70<<10, map[int]string{0: "\xfd7zXZ\x00\x00\x04"}), "`xz -dc FILE | glide import - NAME`"},
		"gzip":              {gzipped(noise(100 << 10)), "`gzip -dc FILE | glide import - NAME`"},
		"gzip, small":       {gzipped([]byte("a")), "gzip"},
		"zstd":              {zstded(noise(100 << 10)), "`zstd -dc FILE | glide import - NAME`"},
		"zstd, skipped":     {append([]byte("\x5e\x2a\x4d\x18\x04\x00\x00\x00skip"), zstded(noise(1000))...), "zstd"},
		"bzip2":             {at(70<<10, map[int]string{0: "BZh91AY&SY"}), "`bzip2 -dc FILE | glide import - NAME`"},
		"bzip2, empty":      {[]byte("BZh9\x17rE8P\x90\x00\x00\x00\x00"), "bzip2"},
		"lz4":               {at(70<<10, map[int]string{0: "\x04\x22\x4d\x18"}), "lz4 -dc"},
		"lz4, old":          {at(70<<10, map[int]string{0: "\x02\x21\x4c\x18"}), "lz4 -dc"},
		"lzma":              {at(70<<10, map[int]string{0: "\x5d\x00\x00\x80\x00\xff\xff\xff\xff\xff\xff\xff\xff\x00"}), "lzma"},
		"lzip":              {at(70<<10, map[int]string{0: "LZIP\x01"}), "lzip -dc"},
		"lzop":              {at(70<<10, map[int]string{0: "\x89LZO\x00\x0d\x0a\x1a\x0a"}), "lzop -dc"},
		"compress":          {at(70<<10, map[int]string{0: "\x1f\x9d\x90"}), "compress"},
		"tar":               {tarred("disk.raw", tar.FormatUSTAR), "tar -xf"},
		"tar, of GNU":       {tarred("disk.vmdk", tar.FormatGNU), "tar -xf"},
		"tar, of 1979":      {oldTar(), "tar -xf"},
		"zip":               {zipped(), "ZIP"},
		"7z":                {at(70<<10, map[int]string{0: "7z\xbc\xaf\x27\x1c"}), "7z"},
		"rar":               {at(70<<10, map[int]string{0: "Rar!\x1a\x07\x01\x00"}), "RAR"},
		"cpio":              {at(70<<10, map[int]string{0: "070701"}), "cpio"},
		"cpio, binary":      {at(70<<10, map[int]string{0: "\xc7\x71", 20: "\x05\x00", 26: "disk\x00"}), "cpio"},
		"ar":                {at(70<<10, map[int]string{0: "!<arch>\ndebian-binary   "}), "Debian package"},
		"rpm":               {at(70<<10, map[int]string{0: "\xed\xab\xee\xdb"}), "RPM"},
		"elf":               {at(70<<10, map[int]string{0: "\x7fELF\x02\x01\x01"}), "program"},
		"pe":                {pe, "program"},
		"pdf":               {at(70<<10, map[int]string{0: "%PDF-1.7\n"}), "PDF"},
		"html":              {[]byte(page), "HTML"},
		"html, long":        {[]byte(strings.Repeat(page, 5000)), "HTML"},
		"json":              {[]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`), "JSON"},
		"xml":               {[]byte("\xef\xbb\xbf<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>"), "XML"},
		"text":              {[]byte("404 page not found\n"), "text file"},
		"text, no line":     {[]byte("Not Found"), "text file"},
		"text, 512":         {[]byte(strings.Repeat("a line of text\n\n", 512/16)), "text file"},
		"text, long":        {[]byte(strings.Repeat("été, a line of text\n", 20000)), "text file"},
		"lfs":               {[]byte("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "Git LFS"},
		"bundle":            {at(70<<10, map[int]string{0: "# v2 git bundle\n"}), "Git bundle"},
		"cut short":         {gpt(1 << 30), "describes"},
		"qcow2, version 9":  {at(70<<10, map[int]string{0: "QFI\xfb\x00\x00\x00\x09"}), "version 9"},
		"qcow2, cut at 100": {[]byte("QFI\xfb\x00\x00\x00\x03" + strings.Repeat("\x00", 92)), "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(path, c.b, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, how := range []string{"file", "stream", "stream, sized"} {
				f, o := pipe(t, path), Options{}
				if how == "file" {
					var err error
					if f, err = os.Open(path); err != nil {
						t.Fatal(err)
					}
					defer func() { _ = f.Close() }()
				}
				if how == "stream, sized" {
					o.Size = 1 << 30
				}
				img, err := Open(t.Context(), f, o)
				for err == nil {
					_, err = img.Next()
				}
				if kind := errs.KindOf(err); kind != errs.Unsupported && kind != errs.Corrupt || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v, want %q", how, err, c.want)
				}
				if kind := errs.KindOf(err); kind == errs.Unsupported && !strings.HasPrefix(name, "qcow2") && !strings.Contains(err.Error(), "--format raw") {
					t.Errorf("%s: %v does not say how to have it all the same", how, err)
				}
				if img != nil {
					_ = img.Close()
				}
			}
			if img := open(t, path, Options{Format: Raw}); img.Size() != pad(uint64(len(c.b))) || img.Report().Format != "raw" {
				t.Errorf("as raw bytes: %+v, size %d", img.Report(), img.Size())
			}
		})
	}
}

// TestTakenForRaw: what disks begin with, and what is weak beside it.
func TestTakenForRaw(t *testing.T) {
	iso := at(128<<10, map[int]string{0: "MZ", 60: "\x80\x00\x00\x00", 0x80: "PE\x00\x00", 32769: "CD001"})
	ext4 := make([]byte, 128<<10)
	copy(ext4[1080:], "\x53\xef")
	copy(ext4[1100:], "\x01\x00\x00\x00")
	copy(ext4, "\x1f\x9d\x90")
	grub := mbr()
	copy(grub, "MZ")
	binary.LittleEndian.PutUint32(grub[60:], 0x80)
	copy(grub[0x80:], "PE\x00\x00")
	for name, b := range map[string][]byte{
		"zeros": make([]byte, 1<<20), "a zero": {0}, "noise": noise(1 << 20), "one byte of noise": {0xfe},
		"mbr": mbr(), "mbr that is a program": grub, "gpt": append(gpt(256<<10), make([]byte, 128<<10)...), "iso": iso, "ext4 with a boot sector": ext4,
		"luks":     at(128<<10, map[int]string{0: "LUKS\xba\xbe\x00\x02"}),
		"lvm":      at(128<<10, map[int]string{512: "LABELONE"}),
		"squashfs": at(128<<10, map[int]string{0: "hsqs"}),
		"xfs":      at(128<<10, map[int]string{0: "XFSB"}),
		"swap":     at(128<<10, map[int]string{4086: "SWAPSPACE2"}),
		"letters":  bytes.Repeat([]byte("A"), 64<<10),
		"words":    bytes.Repeat([]byte("image"), 1000),
		"text, then a disk": append([]byte("a note in the first sector\n"),
			make([]byte, 64<<10)...),
		"gzip's first byte": at(64<<10, map[int]string{0: "\x1f\x8b\x08\xff"}),
		"bzip2 by chance":   at(64<<10, map[int]string{0: "BZh9"}),
	} {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		want := hashFile(t, path)
		for _, img := range []*Image{open(t, path, Options{}), open(t, path, Options{Format: Auto})} {
			if sum, _ := content(t, img); sum != want || img.Report().Format != "raw" {
				t.Errorf("%s: %+v, same %v", name, img.Report(), sum == want)
			}
		}
		img, err := Open(t.Context(), pipe(t, path), Options{Size: 1 << 20})
		for err == nil {
			_, err = img.Next()
		}
		if err != io.EOF {
			t.Errorf("%s, as a stream: %v", name, err)
		}
	}
}

// TestMarksAreDistinct: no mark is hidden behind one that comes before it.
func TestMarksAreDistinct(t *testing.T) {
	for i, m := range headMarks {
		if m.magic == "" || m.also != nil {
			continue
		}
		s := sample{head: make([]byte, 70<<10), length: -1}
		copy(s.head[m.at:], m.magic)
		if got := s.find(); got != m.finding {
			t.Errorf("mark %d (%s, %q) is taken for %s", i, m.name, m.magic, got.name)
		}
		for cut := 0; cut < m.at+len(m.magic); cut++ {
			short := sample{head: s.head[:cut], length: -1}
			if got := short.find(); got == m.finding && got.kind != isNoDisk && m.finding != qcow2Image {
				t.Errorf("%q is told by its first %d bytes alone", m.magic, cut)
			}
		}
	}
}

// FuzzFind: no beginning and no end of an image leads the look at it astray.
func FuzzFind(f *testing.F) {
	for _, m := range headMarks {
		head := make([]byte, 600)
		copy(head[m.at:], m.magic)
		f.Add(head, []byte("conectix"), int64(1<<20))
	}
	f.Add(gpt(1 << 30)[:2000], []byte{}, int64(5))
	f.Add(oldTar()[:600], []byte{}, int64(-1))
	f.Add([]byte("{\"a\": 1}"), []byte{}, int64(8))
	f.Fuzz(func(t *testing.T, head, tail []byte, length int64) {
		s := sample{head[:min(len(head), headLen)], tail[:min(len(tail), tailLen)], length}
		what := s.find()
		if (what.kind == isRaw) != (what.name == "") {
			t.Fatalf("%+v", what)
		}
		if what.kind != isRaw {
			if err := what.refusal(); strings.ContainsAny(err.Error(), "\n\x00") {
				t.Fatalf("%q", err)
			}
		}
		if err := s.cutShort(); err != nil && !errors.Is(err, errs.Corrupt) {
			t.Fatal(err)
		}
		if what.kind == isDisk {
			_ = refersTo(bytes.NewReader(head), int64(len(head)), what)
		}
	})
}
