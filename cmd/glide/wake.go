package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/commitlog"
)

func newWake(a *app) *cobra.Command {
	var force bool
	var expect string
	cmd := &cobra.Command{
		Use:   "wake NAME [--force] [--expect-generation E.N]",
		Short: "Make a volume active on this host",
		Long: `Makes a volume active on this host, wherever it slept. If another host holds it,
that host is asked to flush and release it. A host with open connections refuses.
If the host does not answer, its unpublished writes may be lost: the command exits
3 and says what, and --force takes the volume anyway.`,
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(false, args...); err != nil {
				return err
			}
			if expect != "" {
				if _, err := commitlog.ParseGeneration(expect); err != nil {
					return err
				}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, stop := a.meter(cmd.Context(), "waking")
			v, err := c.Wake(ctx, args[0], force, expect)
			stop()
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error { return say(w, "%s is %s", v.Name, v.State) })
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "give up what an unreachable owner did not publish")
	cmd.Flags().StringVar(&expect, "expect-generation", "", "fail if the store has only a state older than `E.N`, such as 3.10")
	return a.jsonFlag(cmd)
}
