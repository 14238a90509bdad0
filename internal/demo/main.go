// Command demo shows Glide's main job, end to end: a Debian disk is imported on one
// host, boots in a VM, is forked ten times, and a fork boots on a second host
// that has never seen it. Checksums prove that each disk has exactly its own
// writes; a table says what it took. `make demo` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	o := options{}
	flag.StringVar(&o.glide, "glide", "bin/glide", "the glide binary")
	flag.StringVar(&o.cache, "cache", ".cache", "where the Debian disk is kept from one time to the next")
	flag.StringVar(&o.image, "image", "", "a raw or qcow2 disk to use, in place of the Debian disk")
	flag.StringVar(&o.store, "store", "file", "file, or s3 for a real S3 server on this machine")
	flag.BoolVar(&o.sealed, "sealed", false, "with a tenant that has keys of its own")
	flag.Parse()
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := show(ctx, o)
	if ctx.Err() != nil {
		err = errors.New("interrupted; everything is cleaned up")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

type options struct {
	glide, cache, image, store string
	sealed                     bool
}

// show checks the options, makes a place for everything, runs the demo there
// and takes the place away again.
func show(ctx context.Context, o options) error {
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	if o.store != "file" && o.store != "s3" {
		return fmt.Errorf("-store is file or s3, not %q", o.store)
	}
	glide, err := filepath.Abs(o.glide)
	if err != nil {
		return err
	}
	if _, err := os.Stat(glide); err != nil {
		return fmt.Errorf("no glide binary at %s: run make build", o.glide)
	}
	if o.image != "" {
		if _, err := os.Stat(o.image); err != nil {
			return fmt.Errorf("-image: %w", err)
		}
	}
	o.glide = glide
	// Short, because sockets are in it.
	dir, err := os.MkdirTemp("", "glide-demo-")
	if err != nil {
		return err
	}
	d := &demo{options: o, out: newPrinter(os.Stdout), dir: dir}
	err = d.run(ctx)
	d.stop()
	return errors.Join(err, os.RemoveAll(dir))
}
