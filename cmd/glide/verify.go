package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newVerify(a *app) *cobra.Command {
	var cold bool
	cmd := &cobra.Command{
		Use:   "verify NAME [--cold]",
		Short: "Check every block of a volume",
		Long: `Reads all of a volume, or of a snapshot, and checks it against its hashes. With
--cold it reads the store instead of this host's cache. If it finds damage, it lists
it and exits 1.`,
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(true, args...)
			if err != nil {
				return err
			}
			ctx, stop := a.meter(cmd.Context(), "verifying")
			v, err := c.Verify(ctx, args[0], cold)
			stop()
			if err != nil {
				return err
			}
			if err := a.print(v, func(w io.Writer) error { return printVerify(w, &v) }); err != nil {
				return err
			}
			if n := len(v.Damaged); n > 0 {
				return errs.New(errs.Corrupt, "%s is damaged in %d places: restore it from an undamaged fork or snapshot", v.Name, n)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&cold, "cold", false, "read the store, not the cache")
	return a.jsonFlag(cmd)
}

func printVerify(w io.Writer, v *client.Verify) error {
	for _, d := range v.Damaged {
		if err := say(w, "damaged: %s", terminal.OneLine(d)); err != nil {
			return err
		}
	}
	return say(w, "checked %d blocks, %s", v.Blocks, size.Human(v.Bytes))
}
