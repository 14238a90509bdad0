package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/image"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

// exported is what export prints in JSON.
type exported struct {
	Name      string `json:"name"`
	File      string `json:"file"`
	Format    string `json:"format"`
	Size      uint64 `json:"size"`
	DataBytes int64  `json:"data_bytes"`
	// LooksLike is the format that a raw image seems to have because of what its
	// guest wrote, or "". Marked: the file has the mark that tells import it is raw.
	LooksLike string  `json:"looks_like,omitempty"`
	Marked    bool    `json:"marked,omitempty"`
	ElapsedMs float64 `json:"elapsed_ms"`
}

func newExport(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "export NAME FILE|- [--format raw|qcow2]",
		Short: "Write a volume to an image",
		Long: `Writes the present state of a volume or a snapshot to an image: a raw file with
holes, or qcow2. On standard output (-), a raw image has its zeros written out, and
a qcow2 image goes through a temporary file (in $TMPDIR). An existing file is
replaced when all data has arrived; a block device is written in place.

If a guest wrote, say, a qcow2 header to its disk, the raw image looks like qcow2.
The file then gets a mark (an extended attribute) by which glide import recognizes
it as long as it is not changed. A warning says so, because copies may lose it.`,
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
			case f != image.Raw && f != image.Qcow2:
				return usage("the format is raw or qcow2")
			case file == "-" && a.json:
				return usage("--json cannot go to standard output together with the image")
			case file == "-" && terminal.Is(a.out):
				return usage("an image cannot go to a terminal: redirect it, or name a file")
			}
			out, err := a.export(cmd.Context(), name, file, f)
			if err != nil || file == "-" {
				return err
			}
			return a.print(out, func(w io.Writer) error {
				return say(w, "exported %s to %s, %s (%s of data) in %s", out.Name, out.File, size.Human(out.Size), size.Human(out.DataBytes), terminal.Took(out.ElapsedMs))
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
	defer func() { _ = x.Close() }() // all of it was read, or an error is being returned
	seen := image.Watch(x)
	src := terminal.Watch(a.err, "exporting", seen)
	defer src.Stop()
	out = exported{Name: name, File: file, Format: format.String(), Size: x.Size()}
	switch {
	case file != "-":
		err = image.WriteFile(file, format, src, func(f *os.File) (err error) {
			out.Marked, err = markRaw(f, format, seen)
			return err
		})
	case format == image.Qcow2:
		err = image.StreamQcow2(a.out, src)
	default:
		err = image.WriteRaw(a.out, src)
	}
	if err != nil {
		return out, err
	}
	if format == image.Raw {
		out.LooksLike = seen.Guise()
	}
	out.DataBytes, out.ElapsedMs = src.Data, float64(time.Since(began))/1e6
	return out, a.warnOfGuise(&out)
}

// markRaw marks a raw image that looks like another format, if the file system
// has extended attributes.
func markRaw(f *os.File, format image.Format, seen *image.Watched) (marked bool, err error) {
	if format != image.Raw || seen.Guise() == "" {
		return false, nil
	}
	err = seen.MarkRaw(f)
	if errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	return err == nil, err
}

// warnOfGuise warns about a raw image that looks like another format.
func (a *app) warnOfGuise(out *exported) error {
	switch {
	case out.LooksLike == "":
		return nil
	case out.Marked:
		return say(a.err, "glide: the guest's disk looks like %s: the file is marked as raw for glide import; a copy may lose the mark, and needs --format raw", out.LooksLike)
	}
	return say(a.err, "glide: the guest's disk looks like %s: import it with --format raw", out.LooksLike)
}
