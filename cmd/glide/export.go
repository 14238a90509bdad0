package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/image"
	"github.com/paraglide/glide/internal/size"
)

// exported is what export prints in JSON.
type exported struct {
	Name      string  `json:"name"`
	File      string  `json:"file"`
	Format    string  `json:"format"`
	Size      uint64  `json:"size"`
	DataBytes int64   `json:"data_bytes"`
	ElapsedMs float64 `json:"elapsed_ms"`
}

func newExport(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "export NAME FILE|- [--format raw|qcow2]",
		Short: "Write a volume to an image",
		Long: `Writes a volume or a snapshot, as it is at this moment, to an image: a raw file
with holes, or qcow2. To standard output (-) a raw image goes with its zeros, and
a qcow2 image by way of a temporary file (in $TMPDIR). A file that exists is
replaced once all has arrived; a block device is written in place.`,
		Example:           "  glide export vm1@before disk.qcow2 --format qcow2",
		Args:              takes(2, 2),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, file := args[0], args[1]
			if err := checkNames(true, name); err != nil {
				return err
			}
			f, err := image.ParseFormat(format)
			switch {
			case err != nil:
				return err
			case f == image.Auto:
				return usage("the format is raw or qcow2")
			case file == "-" && a.json:
				return usage("--json cannot go to standard output together with the image")
			case file == "-" && isTerminal(a.out):
				return usage("an image is nothing for a terminal: redirect it, or name a file")
			}
			out, err := a.export(cmd.Context(), name, file, f)
			if err != nil || file == "-" {
				return err
			}
			return a.print(out, func(w io.Writer) error {
				return say(w, "exported %s to %s, %s (%s of data) in %s", out.Name, out.File, size.Human(out.Size), size.Human(out.DataBytes), took(out.ElapsedMs))
			})
		},
	}
	cmd.Flags().StringVar(&format, "format", "raw", "`FORMAT` to write, raw or qcow2")
	return a.jsonFlag(cmd)
}

func (a *app) export(ctx context.Context, name, file string, format image.Format) (out exported, err error) {
	began := time.Now()
	c, err := a.client()
	if err != nil {
		return out, err
	}
	x, err := c.Export(ctx, name)
	if err != nil {
		return out, err
	}
	defer func() { _ = x.Close() }() // all of it was read, or an error is under way
	src := a.watch("exporting", x)
	defer src.stop()
	switch {
	case file != "-":
		err = writeImage(file, format, src)
	case format == image.Qcow2:
		err = streamQcow2(a.out, src)
	default:
		err = image.WriteRaw(a.out, src)
	}
	return exported{name, file, format.String(), x.Size(), src.data, float64(time.Since(began)) / 1e6}, err
}

// streamQcow2 writes a qcow2 image in order, which its format does not allow:
// it is made in a temporary file first.
func streamQcow2(w io.Writer, src client.Source) (err error) {
	f, err := os.CreateTemp("", "glide-export-")
	if err != nil {
		return fmt.Errorf("spool the image (TMPDIR says where): %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := os.Remove(f.Name()); err != nil { // it goes with the process
		return err
	}
	if err := image.WriteQcow2(f, src); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// writeImage writes an image to path: in place if that is a device, else beside
// it first, so that there is the old file or the new one and never a half.
func writeImage(path string, format image.Format, src client.Source) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	mode := fs.FileMode(0o666) // less the umask
	st, err := os.Stat(path)
	switch {
	case err == nil && st.IsDir():
		return usage("%s is a directory", path)
	case err == nil && !st.Mode().IsRegular():
		return writeDevice(path, format, src)
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
	if format == image.Qcow2 {
		err = image.WriteQcow2(f, src)
	} else {
		err = image.WriteRawFile(f, src)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func writeDevice(path string, format image.Format, src client.Source) error {
	if format != image.Raw {
		return usage("%s is no regular file: only a raw image can be written to it", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = image.WriteRawFile(f, src)
	if serr := f.Sync(); err == nil && !errors.Is(serr, syscall.EINVAL) { // which is what a pipe says
		err = serr
	}
	return errors.Join(err, f.Close())
}
