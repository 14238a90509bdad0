package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/image"
	"github.com/paraglide/glide/internal/installation"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

// imported is what import prints in JSON.
type imported struct {
	client.Import
	Format       string `json:"format"`    // of the image: raw, qcow2, or the format it was converted from
	Converted    bool   `json:"converted"` // by qemu-img
	Marked       bool   `json:"marked"`    // taken as raw because of the mark that glide export left
	InputBytes   uint64 `json:"input_bytes"`
	PaddingBytes uint64 `json:"padding_bytes"`
}

// imageFlags are the flags of import that say how to read the image.
type imageFlags struct{ size, format, sha256, length string }

func newImport(a *app) *cobra.Command {
	var store string
	var key []string
	var flags imageFlags
	cmd := &cobra.Command{
		Use:   "import FILE|- NAME [--size SIZE] [--store URL [--key PROVIDER]...]",
		Short: "Create a volume from a raw or qcow2 image",
		Long: `Creates a volume from a disk image, raw or qcow2, and publishes it to the store.
Holes stay holes. Importing the same image to the same name again changes nothing.

The format is recognized by content. Anything else, such as another format, a
compressed file, an archive or a web page, is refused with advice; --format auto
lets qemu-img convert what it can read. If a guest wrote such content to its disk,
the disk needs --format raw, unless glide export marked the file.

An image whose length is not a multiple of 512 bytes is padded with zeros. A qcow2
image must be complete: no backing file, no encryption, no external data.

--sha256 and --expect-size describe the input as it is given. All of it is compared
before the volume exists. From standard input (-), a raw image with --size or
--expect-size is read as it comes; anything else goes to a temporary file (in
$TMPDIR) first.

With --store it needs no daemon: any host can wake the volume from the store.`,
		Example: `  glide import debian-12.qcow2 debian
  xz -dc disk.img.xz | glide import - disk --size 10G`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(false, args[1]); err != nil {
				return err
			}
			opts, err := flags.options()
			if err != nil {
				return err
			}
			into := a.importToDaemon
			if store != "" {
				into = importToStore(store, key)
			}
			out, err := a.importFile(cmd.Context(), args[0], args[1], opts, into)
			if err != nil {
				return err
			}
			return a.print(out, func(w io.Writer) error { return printImport(w, &out) })
		},
	}
	cmd.Flags().StringVar(&flags.size, "size", "", "`SIZE` of the volume; zeros fill what is beyond the image (default: the image's size)")
	cmd.Flags().StringArrayVar(&key, "key", nil, keyUsage)
	cmd.Flags().StringVar(&store, "store", "", "import into the store at this `URL`, without a daemon")
	cmd.Flags().StringVar(&flags.format, "format", "", "`FORMAT` of the image, raw or qcow2; auto: convert what only qemu-img reads (default: recognize raw and qcow2)")
	cmd.Flags().StringVar(&flags.sha256, "sha256", "", "SHA-256 of the input, as `HEX`, to compare with")
	cmd.Flags().StringVar(&flags.length, "expect-size", "", "exact `SIZE` of the input to compare with")
	return a.jsonFlag(cmd)
}

func (f *imageFlags) options() (opts image.Options, err error) {
	if opts.Format, err = image.ParseFormat(f.format); err != nil {
		return opts, err
	}
	if f.sha256 != "" {
		if opts.SHA256, err = image.ParseSHA256(f.sha256); err != nil {
			return opts, err
		}
	}
	if f.length != "" {
		if opts.Length, err = size.Parse(f.length); err != nil {
			return opts, err
		}
		if opts.Length == 0 {
			return opts, usage("--expect-size is zero: an empty image is never imported")
		}
	}
	if f.size != "" {
		opts.Size, err = size.ParseVolume(f.size)
	}
	return opts, err
}

type importFunc func(ctx context.Context, name string, size uint64, src client.Source) (client.Import, error)

// importFile reads an image and imports it. An interrupt ends it even while it
// waits for standard input, which nothing else can interrupt.
func (a *app) importFile(ctx context.Context, path, name string, opts image.Options, into importFunc) (imported, error) {
	type result struct {
		out imported
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := a.readAndImport(ctx, path, name, opts, into)
		done <- result{out, err}
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r.out, r.err
	case <-time.After(time.Second):
		return imported{}, ctx.Err()
	}
}

func (a *app) readAndImport(ctx context.Context, path, name string, opts image.Options, into importFunc) (out imported, err error) {
	f := a.in
	if path != "-" {
		if f, err = os.Open(path); err != nil {
			return out, err // "open PATH: why"
		}
		defer func() { _ = f.Close() }() // only read from
	}
	img, err := image.Open(ctx, f, opts)
	if err != nil {
		return out, err
	}
	defer func() { _ = img.Close() }() // a temporary file
	src := terminal.Watch(a.err, "importing", img)
	defer src.Stop()
	if out.Import, err = into(ctx, name, img.Size(), src); err != nil {
		return out, err
	}
	r := img.Report()
	out.Format, out.Converted, out.Marked = r.Format, r.Converted, r.Marked
	out.InputBytes, out.BytesRead, out.PaddingBytes = r.Length, r.Read, r.Padding
	return out, nil
}

func (a *app) importToDaemon(ctx context.Context, name string, size uint64, src client.Source) (client.Import, error) {
	c, err := a.client()
	if err != nil {
		return client.Import{}, err
	}
	return c.Import(ctx, name, size, src)
}

// keyUsage says what --key is beside --store.
const keyUsage = "with --store: open the keys of sealed tenants with this `PROVIDER` (may be repeated)"

// importToStore imports without a daemon.
func importToStore(url string, key []string) importFunc {
	return func(ctx context.Context, name string, size uint64, src client.Source) (client.Import, error) {
		ctx = objstore.WithRetryBudget(ctx)
		store, counter, err := openStore(ctx, url)
		if err != nil {
			return client.Import{}, err
		}
		with, err := keys.ParseAll(key)
		if err != nil {
			return client.Import{}, err
		}
		return host.ImportToStore(ctx, host.Config{Store: store, Keys: with, StoreURL: store.String(), Counter: counter, Version: version}, name, size, src)
	}
}

// openStore opens a store without a daemon, and probes it: nothing is safe on a store
// that creates an object twice.
func openStore(ctx context.Context, url string) (objstore.Store, *objstore.Counter, error) {
	counter := &objstore.Counter{}
	store, err := objstore.Open(ctx, url, objstore.Options{Counter: counter})
	if err == nil {
		err = installation.Prove(ctx, store, url)
	}
	return store, counter, err
}

func printImport(w io.Writer, out *imported) error {
	var err error
	if out.Unchanged {
		err = say(w, "%s holds this image already", out.Name)
	} else {
		err = say(w, "imported %s, %s (%d bytes read, %s uploaded) in %s", out.Name, size.Human(out.Size),
			out.BytesRead, size.Human(out.BytesUploaded), terminal.Took(out.ElapsedMs))
	}
	if out.Converted {
		err = errors.Join(err, say(w, "qemu-img converted it from %s", out.Format))
	}
	if out.Marked {
		err = errors.Join(err, say(w, "taken as raw, because glide export marked it"))
	}
	if out.PaddingBytes > 0 {
		err = errors.Join(err, say(w, "the image has %d bytes: %d bytes of zeros fill its last sector", out.InputBytes, out.PaddingBytes))
	}
	return err
}
