package main

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/inspect"
)

func newDebug(a *app) *cobra.Command {
	debug := &cobra.Command{
		Use:   "debug",
		Short: "Inspect files and objects",
		Long:  "Shows what is in Glide's files and objects.",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("glide debug: there is no command %q, only dump", args[0])
			}
			return cmd.Help()
		},
	}
	var key []string
	dump := &cobra.Command{
		Use:   "dump FILE|KEY [--key PROVIDER]...",
		Short: "Print a file or an object of Glide, decoded",
		Long: `Prints the content of a file of Glide: a log segment, a slab, a pack, a map page,
a commit, a pin, an object of a
collector's round or host.json, or the directory meta of a stopped host. That needs
no daemon. An argument that is not a file is the key of an object in the daemon's
store. Of an object of a sealed tenant it shows what is in clear, and the rest if the
daemon has the keys; of a file in the directory of a store, if --key opens them.`,
		Example: `  glide debug dump /var/lib/glide/wal/12.seg
  glide debug dump /var/lib/glide/meta
  glide debug dump packs/65/65ea8a83081ed58bc32eacf3-0102030405060708090a0b0c`,
		Args:                  takes(1, 1),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			path := args[0]
			_, err := os.Stat(path)
			if err == nil {
				return a.dumped(path, func(w io.Writer) error { return inspect.DumpFile(cmd.Context(), w, path, key...) })
			}
			if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if kind, _, _ := strings.Cut(path, "/"); !slices.Contains([]string{"packs", "d", "pins", "t", "tenants", "gc"}, kind) {
				return errs.New(errs.NotFound, "there is no file %s, and keys of objects begin with packs/, d/, pins/, t/, tenants/ or gc/", path)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			d, err := c.Dump(cmd.Context(), path)
			if err != nil {
				return err
			}
			return a.dumped(path, func(w io.Writer) error {
				if _, err := io.WriteString(w, d.Text); err != nil || d.Damage == "" {
					return err
				}
				return errs.New(errs.Corrupt, "%s", d.Damage)
			})
		},
	}
	dump.Flags().StringArrayVar(&key, "key", nil, "of a file of a store: open the keys of sealed tenants with this `PROVIDER` (may be repeated)")
	debug.AddCommand(a.jsonFlag(dump))
	return debug
}

// dumped prints what dump writes, directly or as one JSON document, which also
// describes damage.
func (a *app) dumped(path string, dump func(io.Writer) error) error {
	if !a.json {
		return dump(a.out)
	}
	var text bytes.Buffer
	damage := dump(&text)
	if damage != nil && errs.KindOf(damage) != errs.Corrupt {
		return damage
	}
	d := client.Dump{Key: path, Text: text.String()}
	if damage != nil {
		d.Damage = damage.Error()
	}
	if err := a.print(d, nil); err != nil {
		return err
	}
	return damage
}
