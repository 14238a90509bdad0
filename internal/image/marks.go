package image

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strconv"
	"strings"
)

// headMark recognizes a format by the beginning of an image.
type headMark struct {
	at    int
	magic string
	finding
	// also, if not nil, is a further check. It gets the whole sample of the beginning.
	also func(head []byte) bool
	// weak marks are short, or occur at the beginning of real disks: they do not count
	// if the image has the marks of a disk.
	weak bool
}

func (m *headMark) matches(head []byte) bool {
	return len(head) >= m.at+len(m.magic) && string(head[m.at:m.at+len(m.magic)]) == m.magic && (m.also == nil || m.also(head))
}

func disk(name, driver string) finding { return finding{isDisk, name, driver} }
func packed(with, command string) finding {
	return finding{isPacked, "compressed with " + with, command}
}
func archive(name, tool string) finding    { return finding{isArchive, name, tool} }
func foreign(name, command string) finding { return finding{isForeign, name, command} }
func noDisk(name string) finding           { return finding{isNoDisk, name, ""} }

var (
	qcow2Image = finding{isQcow2, "a qcow2 image", "qcow2"}
	vmdk       = disk("a VMDK", "vmdk")
	vhd        = disk("a VHD", "vpc")
	dmg        = disk("a DMG of macOS", "dmg")
	parallels  = disk("a disk of Parallels", "parallels")
	tarball    = archive("a tar archive (an OVA is one)", "tar -xf")
	cpio       = archive("a cpio archive", "cpio -id <")
	zipArchive = archive("a ZIP archive", "unzip")
	rar        = archive("a RAR archive", "unrar x")
	unzstd     = packed("zstd", "zstd -dc")
	unlz4      = packed("lz4", "lz4 -dc")
	unzip      = packed("compress", "gzip -dc")
	expertWit  = foreign("an EnCase (EWF, E01) image", "")
	picture    = noDisk("a picture")
	program    = noDisk("a program")
)

// headMarks lists the formats that are recognized by their beginning. LUKS, LVM, swap,
// ISO 9660, squashfs and other file systems are not among them: real disks begin with
// those.
var headMarks = []headMark{
	// Images of disks.
	{magic: "QFI\xfb\x00\x00\x00\x01", finding: disk("a qcow (version 1)", "qcow")},
	{magic: "QFI\xfb", finding: qcow2Image},
	{magic: "KDMV", finding: vmdk},
	{magic: "COWD", finding: foreign("an extent of a VMDK of ESX, whose descriptor is another file", "qemu-img convert -f vmdk -O qcow2 DESCRIPTOR.vmdk disk.qcow2")},
	{magic: "\x00\x00\x00\x00\xbe\xba\xfe\xca", finding: foreign("an SEsparse extent of a VMDK of ESX, whose descriptor is another file", "qemu-img convert -f vmdk -O qcow2 DESCRIPTOR.vmdk disk.qcow2")},
	{magic: "conectix", finding: vhd},
	{magic: "vhdxfile", finding: disk("a VHDX", "vhdx")},
	{at: 64, magic: "\x7f\x10\xda\xbe", finding: disk("a VDI", "vdi")},
	{magic: "QED\x00", finding: disk("a QED image", "qed")},
	{magic: "WithoutFreeSpace", finding: parallels},
	{magic: "WithouFreSpacExt", finding: parallels},
	{magic: "Bochs Virtual HD Image", finding: disk("a disk of Bochs", "bochs")},
	{magic: "#!/bin/sh\n#V2.0 Format\n", finding: disk("a cloop image", "cloop")},
	{magic: "\x3a\xff\x26\xed", finding: foreign("a sparse image of Android", "simg2img FILE disk.img")},
	{magic: "encrcdsa", finding: foreign("an encrypted DMG of macOS", "")},
	{magic: "sprs", finding: foreign("a sparse image of macOS", ""), weak: true},
	{magic: "shdw", finding: foreign("a sparse image (ASIF) of macOS", ""), weak: true},
	{magic: "EVF\x09\x0d\x0a\xff\x00", finding: expertWit},
	{magic: "LVF\x09\x0d\x0a\xff\x00", finding: expertWit},
	{magic: "EVF2\x0d\x0a\x81\x00", finding: expertWit},
	{magic: "AFF10\x0d\x0a\x00", finding: foreign("an image of the Advanced Forensics Format", "")},
	{magic: "MSWIM\x00\x00\x00", finding: archive("a Windows image (WIM, ESD)", "wimapply")},
	{magic: "WLPWM\x00\x00\x00", finding: archive("a Windows image (pipable WIM)", "wimapply")},
	{magic: "partclone-image", finding: foreign("an image of Partclone", "")},
	{magic: "PaRtImAgE-VoLuMe", finding: foreign("an image of Partimage", "")},
	{magic: "FsA0", finding: foreign("an archive of FSArchiver", ""), weak: true},
	{magic: "VMA\x00", finding: foreign("a backup of Proxmox (VMA)", ""), weak: true},
	{magic: "MComprHD", finding: foreign("a CHD image", "")},
	{magic: "CISO", finding: foreign("a CSO image", ""), weak: true},
	{magic: "IsZ!", finding: foreign("an ISZ image", ""), weak: true},

	// Compressed files.
	{magic: "\xfd7zXZ\x00", finding: packed("xz", "xz -dc")},
	{magic: "\x1f\x8b\x08", finding: packed("gzip", "gzip -dc"), also: func(b []byte) bool { return len(b) < 4 || b[3]&0xe0 == 0 }},
	{magic: "\x28\xb5\x2f\xfd", finding: unzstd},
	{at: 1, magic: "\x2a\x4d\x18", finding: unzstd, also: func(b []byte) bool { return b[0]&0xf0 == 0x50 }}, // a frame to be skipped
	{at: 1, magic: "\xb5\x2f\xfd", finding: unzstd, also: func(b []byte) bool { return 0x22 <= b[0] && b[0] <= 0x27 }},
	{magic: "BZh", finding: packed("bzip2", "bzip2 -dc"), also: isBzip2},
	{magic: "\x04\x22\x4d\x18", finding: unlz4},
	{magic: "\x02\x21\x4c\x18", finding: unlz4},
	{magic: "LZIP", finding: packed("lzip", "lzip -dc"), also: func(b []byte) bool { return len(b) > 4 && b[4] <= 1 }},
	{magic: "\x89LZO\x00\x0d\x0a\x1a\x0a", finding: packed("lzop", "lzop -dc")},
	{magic: "\x1f\x9d", finding: unzip, also: func(b []byte) bool { return len(b) > 2 && b[2]&0x60 == 0 && 9 <= b[2]&0x1f && b[2]&0x1f <= 16 }, weak: true},
	{magic: "\x1f\x1e", finding: packed("pack", "gzip -dc"), also: func(b []byte) bool { return len(b) > 6 && b[2] < 0x10 && 0 < b[6] && b[6] <= 25 }, weak: true},
	{magic: "\x5d\x00\x00", finding: packed("lzma", "xz -dc --format=lzma"), also: isLZMA, weak: true},
	{magic: "LRZI\x00", finding: packed("lrzip", "lrzip -d -o -")},
	{magic: "RZIP\x02", finding: packed("rzip", "rzip -d")},
	{magic: "Salted__", finding: foreign("encrypted by OpenSSL", "openssl enc -d")},
	{magic: "age-encryption.org/", finding: foreign("encrypted by age", "age -d FILE | glide import - NAME")},

	// Archives.
	{at: 257, magic: "ustar", finding: tarball},
	{finding: tarball, also: isOldTar, weak: true},
	{magic: "PK\x03\x04", finding: zipArchive},
	{magic: "PK\x05\x06", finding: zipArchive},
	{magic: "PK\x07\x08", finding: zipArchive},
	{magic: "7z\xbc\xaf\x27\x1c", finding: archive("a 7z archive", "7z x")},
	{magic: "Rar!\x1a\x07", finding: rar},
	{magic: "RE~^", finding: rar, weak: true},
	{magic: "070701", finding: cpio},
	{magic: "070702", finding: cpio},
	{magic: "070707", finding: cpio},
	{finding: cpio, also: isOldCpio, weak: true},
	{magic: "!<arch>\n", finding: archive("an ar archive (a Debian package is one)", "ar x")},
	{magic: "\xed\xab\xee\xdb", finding: archive("an RPM package", "rpm2cpio")},
	{magic: "MSCF\x00\x00\x00\x00", finding: archive("a CAB archive", "cabextract")},
	{magic: "xar!\x00\x1c", finding: archive("a xar archive", "xar -xf")},
	{at: 2, magic: "-lh", finding: archive("an LHA archive", "lha x"), also: func(b []byte) bool { return len(b) > 6 && b[6] == '-' }, weak: true},

	// Other files that are not disks.
	{magic: "\x7fELF", finding: program, also: func(b []byte) bool {
		return len(b) > 6 && 1 <= b[4] && b[4] <= 2 && 1 <= b[5] && b[5] <= 2 && b[6] == 1
	}},
	{magic: "MZ", finding: program, also: isPE, weak: true},
	{magic: "\xcf\xfa\xed\xfe", finding: program, weak: true},
	{magic: "\xca\xfe\xba\xbe", finding: program, weak: true},
	{magic: "\x00asm\x01\x00\x00\x00", finding: program},
	{magic: "%PDF-", finding: noDisk("a PDF")},
	{magic: "\x89PNG\x0d\x0a\x1a\x0a", finding: picture},
	{magic: "\xff\xd8\xff", finding: picture, weak: true},
	{magic: "GIF8", finding: picture, weak: true},
	{magic: "# v2 git bundle\n", finding: noDisk("a Git bundle")},
	{magic: "# v3 git bundle\n", finding: noDisk("a Git bundle")},
	{magic: "SQLite format 3\x00", finding: noDisk("an SQLite database")},
}

// tailMarks lists the formats that are recognized by their end.
var tailMarks = []struct {
	back  int // bytes before the end
	magic string
	finding
}{
	{512, "conectix", vhd},
	{511, "conectix", vhd}, // as old versions of Virtual PC wrote it
	{512, "koly", dmg},
	{8, "cdsaencr", foreign("an encrypted DMG of macOS", "")},
}

// textMarks lists kinds of text by their beginning, in lower case.
var textMarks = []struct {
	prefix string
	finding
}{
	{"# disk descriptorfile", foreign("the descriptor of a VMDK, whose data lies in other files", "qemu-img convert -f vmdk -O qcow2 FILE disk.qcow2")},
	{"<!doctype html", noDisk("an HTML page, perhaps a server's error")},
	{"<html", noDisk("an HTML page, perhaps a server's error")},
	{"<?xml", noDisk("an XML document")},
	{"<", noDisk("a text with markup")},
	{"{", noDisk("a JSON document")},
	{"[", noDisk("a JSON document, or a list of settings")},
	{"version https://git-lfs", noDisk("a pointer of Git LFS: fetch what it stands for with `git lfs pull`")},
	{"-----begin ", noDisk("a text in PEM or PGP armour")},
	{"#!", noDisk("a script")},
}

func isBzip2(b []byte) bool {
	return len(b) >= 10 && '1' <= b[3] && b[3] <= '9' && (string(b[4:10]) == "1AY&SY" || string(b[4:10]) == "\x17\x72\x45\x38\x50\x90")
}

// isLZMA checks the header of the old format of lzma, which has no magic number:
// the sizes of the dictionary and of the data, and the decoder's first byte.
func isLZMA(b []byte) bool {
	if len(b) < 14 {
		return false
	}
	dict, n := binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint64(b[5:])
	round := bits.OnesCount32(dict) == 1 || bits.OnesCount32(dict) == 2 && dict&(dict>>1) != 0
	return round && dict >= 4096 && (n == ^uint64(0) || n < 1<<40) && b[13] == 0
}

// isOldTar recognizes a pre-POSIX tar archive by its checksum.
func isOldTar(b []byte) bool {
	if len(b) < 512 || b[0] == 0 {
		return false
	}
	field := strings.Trim(string(b[148:156]), " \x00")
	want, err := strconv.ParseUint(field, 8, 32)
	if err != nil {
		return false
	}
	sum := uint64(8 * ' ')
	for i, c := range b[:512] {
		if i < 148 || i >= 156 {
			sum += uint64(c)
		}
	}
	return sum == want
}

// isOldCpio recognizes a binary cpio archive. Its magic number has only two bytes, so
// the length of the first name must match that name as well.
func isOldCpio(b []byte) bool {
	if len(b) < 26 {
		return false
	}
	var order binary.ByteOrder = binary.LittleEndian
	if b[0] == 0x71 {
		order = binary.BigEndian
	}
	n := int(order.Uint16(b[20:]))
	return order.Uint16(b) == 0x71c7 && 2 <= n && n <= 1024 && len(b) >= 26+n && bytes.IndexByte(b[26:26+n], 0) == n-1
}

// isPE finds a program of Windows, or of UEFI.
func isPE(b []byte) bool {
	if len(b) < 64 {
		return false
	}
	at := uint64(binary.LittleEndian.Uint32(b[60:]))
	return at <= uint64(len(b)-4) && string(b[at:at+4]) == "PE\x00\x00"
}
