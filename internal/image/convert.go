package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

// maxSaid bounds what is kept of qemu-img's messages, in bytes.
const maxSaid = 4 << 10

// convert makes qemu-img convert the image in f to a qcow2 image in an unnamed file.
// The image is not trusted: qemu-img gets the format and never guesses it; an image
// that refers to another file is refused, and the reference would not be followed; and
// the result may use the free room in dir, less a share that is left to others.
func convert(ctx context.Context, f *os.File, length int64, what finding, dir string) (_ *os.File, _ *qcow2, err error) {
	if err := refersTo(f, length, what); err != nil {
		return nil, nil, err
	}
	bin, err := exec.LookPath("qemu-img")
	if err != nil {
		return nil, nil, errs.New(errs.Unsupported, "the image is %s, and qemu-img, which converts it, is not installed: install it (qemu-utils), or convert the image elsewhere, `qemu-img convert -f %s -O qcow2 FILE disk.qcow2`", what.name, what.tool)
	}
	out, err := tempFile(dir, "glide-convert-")
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close())
		}
	}()
	room, err := freeBytes(cmp.Or(dir, os.TempDir()))
	if err != nil {
		return nil, nil, fmt.Errorf("convert the image: %w", err)
	}
	room -= room / 16
	if err := runConvert(ctx, bin, f, out, what, room, dir); err != nil {
		return nil, nil, err
	}
	n, err := out.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, nil, fmt.Errorf("convert the image: %w", err)
	}
	q, err := openQcow2(out, n)
	return out, q, err
}

// runConvert runs qemu-img, whose output may grow to room bytes.
func runConvert(ctx context.Context, bin string, in, out *os.File, what finding, room uint64, dir string) error {
	// Pass files by descriptor: a name cannot have a special meaning, and nobody can
	// replace the file after it was checked.
	options := ""
	if what.tool == vhd.tool {
		options = `"force_size_calc":"current_size",` // all of it, not what a geometry covers
	}
	source := fmt.Sprintf(`json:{"driver":%q,%s"backing":null,"file":{"driver":"file","filename":"/proc/self/fd/3","locking":"off"}}`, what.tool, options)
	cmd := exec.CommandContext(ctx, bin, "convert", "-O", "qcow2", source, "/proc/self/fd/4")
	cmd.ExtraFiles = []*os.File{in, out}
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "TMPDIR=" + cmp.Or(dir, os.TempDir())}
	said := &saying{}
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("convert the image: %w", err)
	}
	limit := unix.Rlimit{Cur: room, Max: room}
	if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		_ = cmd.Process.Kill()
		return errors.Join(fmt.Errorf("convert the image: %w", err), cmd.Wait())
	}
	err := cmd.Wait()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	text := said.String()
	if strings.Contains(text, "No space left") || strings.Contains(text, "File too large") || strings.Contains(err.Error(), "file size limit") {
		_ = out.Truncate(0) // so that what is free is told without it
		return noRoom(unix.ENOSPC, dir, "more than "+size.Human(room), elsewhere)
	}
	return errs.New(errs.Corrupt, "the image is %s, and qemu-img cannot convert it: %s", what.name, cmp.Or(text, err.Error()))
}

// saying keeps the beginning of a program's output.
type saying struct{ b []byte }

// Write implements io.Writer.
func (s *saying) Write(p []byte) (int, error) {
	s.b = append(s.b, p[:min(len(p), maxSaid-len(s.b))]...)
	return len(p), nil
}

// String is one line of it.
func (s *saying) String() string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(s.b), []byte("\n"))
	return printable(bytes.TrimPrefix(line, []byte("qemu-img: ")))
}

// refersTo is the error for an image that needs another file. The image names that
// file, which could be any file of this machine.
func refersTo(r io.ReaderAt, length int64, what finding) error {
	head := make([]byte, min(length, headLen))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return readError(err, 0)
	}
	no := func(why string) error {
		return errs.New(errs.Unsupported, "the image is %s that %s: make it one whole image where its other files are, `qemu-img convert -f %s -O qcow2 FILE disk.qcow2`", what.name, why, what.tool)
	}
	le := func(at int) uint64 { return binary.LittleEndian.Uint64(head[at:]) }
	switch {
	case what.tool == vmdk.tool:
		return vmdkRefersTo(r, length, head, no)
	case what.tool == vhd.tool:
		footer := head
		if !bytes.HasPrefix(head, []byte("conectix")) { // a fixed one has it at the end only
			footer = make([]byte, min(length, 512))
			if _, err := r.ReadAt(footer, length-int64(len(footer))); err != nil && err != io.EOF {
				return readError(err, 0)
			}
		}
		if len(footer) < 64 {
			return damagedImage(what)
		}
		if kind := be.Uint32(footer[60:]); kind != vhdFixed && kind != vhdDynamic {
			return no("is the difference to another one")
		}
	case what.tool == "qed" && (len(head) < 24 || le(16)&1 != 0):
		return no("has a backing file")
	case what.tool == "qcow" && (len(head) < 16 || be.Uint64(head[8:]) != 0):
		return no("has a backing file")
	}
	return nil
}

// The types of a VHD that need no other file.
const (
	vhdFixed   = 2
	vhdDynamic = 3
)

// The header of a sparse VMDK; integers are little-endian.
const (
	vmdkHeader     = 512
	vmdkCapacity   = 12 // where it lies, sectors
	vmdkDescriptor = 28 // where the descriptor's place and length lie, sectors
	vmdkDirectory  = 56 // where the place of the grain directory lies
	maxDescriptor  = 1 << 20
)

func damagedImage(what finding) error {
	return errs.New(errs.Corrupt, "the image is %s, and damaged: its header is cut off", what.name)
}

// vmdkRefersTo looks for references to other files: a header without data of its
// own, or a descriptor with a parent.
func vmdkRefersTo(r io.ReaderAt, length int64, head []byte, no func(string) error) error {
	if len(head) < vmdkHeader {
		return damagedImage(vmdk)
	}
	headers := [][]byte{head[:vmdkHeader]}
	if binary.LittleEndian.Uint64(head[vmdkDirectory:]) == ^uint64(0) { // optimized for streams: the header that counts is the last
		footer := make([]byte, vmdkHeader)
		if _, err := r.ReadAt(footer, max(0, length-2*vmdkHeader)); err != nil {
			return damagedImage(vmdk)
		}
		headers = append(headers, footer)
	}
	text := [][]byte{head}
	described := false
	for _, h := range headers {
		if binary.LittleEndian.Uint64(h[vmdkCapacity:]) == 0 {
			return no("only names its files")
		}
		off, n := binary.LittleEndian.Uint64(h[vmdkDescriptor:]), binary.LittleEndian.Uint64(h[vmdkDescriptor+8:])
		if off == 0 || n == 0 || off > uint64(length)/512 {
			continue
		}
		described = true
		b := make([]byte, min(n, maxDescriptor/512)*512)
		got, err := r.ReadAt(b, int64(off)*512)
		if err != nil && err != io.EOF {
			return readError(err, off*512)
		}
		text = append(text, b[:got])
	}
	if !described {
		return no("is one of several files")
	}
	for _, b := range text {
		if b = bytes.ToLower(b); bytes.Contains(b, []byte("parentfilenamehint")) {
			return no("has a parent")
		}
	}
	return nil
}
