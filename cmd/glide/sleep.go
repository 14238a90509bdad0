package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newSleep(a *app) *cobra.Command {
	var portable, force bool
	cmd := &cobra.Command{
		Use:   "sleep NAME [--portable] [--force]",
		Short: "Put a volume to sleep",
		Long: `Syncs a volume and drops it from memory; a connection wakes it. With --portable it
is flushed and released, so that any host can wake it at once. A volume with open
connections needs --force, which closes them.`,
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(false, args...)
			if err != nil {
				return err
			}
			ctx, stop := a.meter(cmd.Context(), "going to sleep")
			v, err := c.Sleep(ctx, args[0], portable, force)
			stop()
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error { return say(w, "%s is %s", v.Name, v.State) })
		},
	}
	cmd.Flags().BoolVar(&portable, "portable", false, "flush and release it, so that any host can wake it")
	cmd.Flags().BoolVar(&force, "force", false, "close open connections")
	return a.jsonFlag(cmd)
}
