package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newFlush(a *app) *cobra.Command {
	var through uint64
	cmd := &cobra.Command{
		Use:               "flush NAME",
		Short:             "Publish a volume's state to the store",
		Long:              "Returns when the store holds everything that the volume acknowledged before the\ncall.",
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(false, args...)
			if err != nil {
				return err
			}
			ctx, stop := a.meter(cmd.Context(), "flushing")
			var f client.Flush
			if cmd.Flags().Changed("through") {
				f, err = c.Barrier(ctx, args[0], through)
			} else {
				f, err = c.Flush(ctx, args[0])
			}
			stop()
			if err != nil {
				return err
			}
			return a.print(f, func(w io.Writer) error {
				return say(w, "flushed %s as %s: %d blocks, %d of them new, %s uploaded in %s", args[0], f.Generation,
					f.BlocksFolded, f.BlocksNew, size.Human(f.BytesUploaded), terminal.Took(f.ElapsedMs))
			})
		},
	}
	cmd.Flags().Uint64Var(&through, "through", 0, "wait only for the write with this number (the sequence in show --json)")
	return a.jsonFlag(cmd)
}
