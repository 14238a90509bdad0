package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

// StreamQcow2 writes a qcow2 image to a stream. The format cannot be written in
// order, so the image is built in a temporary file first.
func StreamQcow2(w io.Writer, src api.Source) (err error) {
	f, err := os.CreateTemp("", "glide-export-")
	if err != nil {
		return fmt.Errorf("spool the image (TMPDIR says where): %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := os.Remove(f.Name()); err != nil { // the file ends with the process
		return err
	}
	if err := writeQcow2(f, src); err != nil {
		_ = f.Truncate(0) // so that the free space in the message does not count it
		return noRoomInTemp(err, atMost(src))
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// atMost says how much room an image of src needs.
func atMost(src api.Source) string {
	return "as much as the volume has data, at most " + size.Human(src.Size())
}

// WriteFile writes an image to path. A device is written in place. A file is
// written beside path and then renamed, so path has the old file or the new one.
func WriteFile(path string, format Format, src api.Source, written func(*os.File) error) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	mode := fs.FileMode(0o666) // less the umask
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return errs.New(errs.Invalid, "%s is a directory", path)
	case err == nil && !st.Mode().IsRegular():
		return writeInPlace(path, format, src)
	case err == nil:
		mode = st.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	temp := fmt.Sprintf("%s.partial-%d", path, os.Getpid())
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temp))
		}
	}()
	if format == Qcow2 {
		err = writeQcow2(f, src)
	} else {
		err = writeRawFile(f, src)
	}
	if err == nil {
		err = written(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Truncate(0) // so that the free space in the message does not count it
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return noRoom(err, filepath.Dir(path), atMost(src), "export it to a place with more")
	}
	return os.Rename(temp, path)
}

func writeInPlace(path string, format Format, src api.Source) error {
	if format != Raw {
		return errs.New(errs.Invalid, "%s is not a regular file: only a raw image can be written to it", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = writeRawFile(f, src)
	if serr := f.Sync(); err == nil && !errors.Is(serr, syscall.EINVAL) { // a pipe returns EINVAL
		err = serr
	}
	return errors.Join(err, f.Close())
}
