package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/image"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/size"
)

func newImport(a *app) *cobra.Command {
	var sizeText, store, format string
	cmd := &cobra.Command{
		Use:   "import FILE|- NAME [--size SIZE] [--store URL]",
		Short: "Make a volume from a raw or qcow2 image",
		Long: `Makes a volume from a disk image, raw or qcow2, and puts it into the store.
Holes stay holes. Importing the same image to the same name once more changes
nothing.

An image that is no multiple of 512 bytes is padded with zeros. A qcow2 image
must be whole: no backing file, no encryption, no external data.

From standard input (-), a raw image with --size is read as it comes; anything
else is kept in a temporary file (in $TMPDIR) first.

With --store it needs no daemon: the volume is left in the store for any host
to wake.`,
		Example: `  glide import debian-12.qcow2 debian
  zcat disk.img.gz | glide import - disk --size 10G`,
		Args: takes(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(false, args[1]); err != nil {
				return err
			}
			opts, err := imageOptions(sizeText, format)
			if err != nil {
				return err
			}
			into := a.importToDaemon
			if store != "" {
				into = importToStore(store)
			}
			out, err := a.importFile(cmd.Context(), args[0], args[1], opts, into)
			if err != nil {
				return err
			}
			return a.print(out, func(w io.Writer) error { return printImport(w, &out) })
		},
	}
	cmd.Flags().StringVar(&sizeText, "size", "", "`SIZE` of the volume; larger than the image, it is filled up with zeros (default: the image's)")
	cmd.Flags().StringVar(&store, "store", "", "import into the store at this `URL`, without a daemon")
	cmd.Flags().StringVar(&format, "format", "auto", "`FORMAT` of the image, raw or qcow2, instead of finding out")
	return a.jsonFlag(cmd)
}

func imageOptions(sizeText, format string) (opts image.Options, err error) {
	if opts.Format, err = image.ParseFormat(format); err != nil {
		return opts, err
	}
	if sizeText != "" {
		opts.Size, err = size.ParseVolume(sizeText)
	}
	return opts, err
}

type importFunc func(ctx context.Context, name string, size uint64, src client.Source) (client.Import, error)

// importFile reads an image and hands it on. An interrupt ends it also while it
// waits for standard input, which nothing else can end.
func (a *app) importFile(ctx context.Context, path, name string, opts image.Options, into importFunc) (client.Import, error) {
	type result struct {
		out client.Import
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
		return client.Import{}, ctx.Err()
	}
}

func (a *app) readAndImport(ctx context.Context, path, name string, opts image.Options, into importFunc) (out client.Import, err error) {
	f := a.in
	if path != "-" {
		if f, err = os.Open(path); err != nil {
			return out, err // it says "open PATH: why"
		}
		defer func() { _ = f.Close() }() // only read from
	}
	img, err := image.Open(f, opts)
	if err != nil {
		return out, err
	}
	defer func() { _ = img.Close() }() // a temporary file
	src := a.watch("importing", img)
	defer src.stop()
	return into(ctx, name, img.Size(), src)
}

func (a *app) importToDaemon(ctx context.Context, name string, size uint64, src client.Source) (client.Import, error) {
	c, err := a.client()
	if err != nil {
		return client.Import{}, err
	}
	return c.Import(ctx, name, size, src)
}

// importToStore imports without a daemon. The store is proved first: what is
// built on one that creates objects twice is built on sand.
func importToStore(url string) importFunc {
	return func(ctx context.Context, name string, size uint64, src client.Source) (client.Import, error) {
		counter := &objstore.Counter{}
		ctx = objstore.WithPatience(ctx)
		store, err := objstore.Open(ctx, url, objstore.Options{Counter: counter})
		if err != nil {
			return client.Import{}, err
		}
		if err := objstore.Probe(ctx, store, probeNonce()); err != nil {
			return client.Import{}, err
		}
		return host.ImportToStore(ctx, host.Config{Store: store, StoreURL: store.String(), Counter: counter, Version: version}, name, size, src)
	}
}

func printImport(w io.Writer, out *client.Import) error {
	if out.Unchanged {
		return say(w, "%s holds this image already", out.Name)
	}
	return say(w, "imported %s, %s (%s of data, %s uploaded) in %s", out.Name, size.Human(out.Size),
		size.Human(out.BytesRead), size.Human(out.BytesUploaded), took(out.ElapsedMs))
}
