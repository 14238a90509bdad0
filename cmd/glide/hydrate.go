package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

func newHydrate(a *app) *cobra.Command {
	var rate string
	cmd := &cobra.Command{
		Use:   "hydrate NAME [--rate 100M]",
		Short: "Bring every block of a volume to this host",
		Long: `Brings every block of a volume, or of a snapshot, to this host's SSD tier. When it
is done, the volume reads without the store. Blocks that are here already are not
fetched again. If the daemon is restarted meanwhile, it goes on by itself.`,
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var bytes uint64
			if rate != "" {
				var err error
				if bytes, err = size.Parse(rate); err != nil || bytes == 0 {
					return errs.New(errs.Invalid, "--rate %.60s is not a rate: give bytes a second, like 100M", rate)
				}
			}
			c, err := a.clientFor(true, args...)
			if err != nil {
				return err
			}
			ctx, stop := a.meter(cmd.Context(), "hydrating")
			v, err := c.Hydrate(ctx, args[0], bytes)
			stop()
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error {
				return say(w, "%s reads without the store: %d blocks are on this host, %d of them were fetched", v.Name, v.Blocks, v.Fetched)
			})
		},
	}
	cmd.Flags().StringVar(&rate, "rate", "", "bytes of the store a second, at most; without it there is no limit")
	return a.jsonFlag(cmd)
}
