package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newRollback(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rollback NAME SNAPSHOT|GENERATION [--force]",
		Short: "Return a volume to a snapshot or a commit",
		Long: `Returns a volume to an earlier state. What it gives up stays as the snapshot
before-rollback-GENERATION, with the writes that were not published; roll back to
that to undo it. A volume with open connections needs --force, which closes them.`,
		Example: `  glide rollback vm1 before-upgrade
  glide rollback vm1 3.10`,
		Args:              takes(2, 2),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(false, args[0]); err != nil {
				return err
			}
			if args[1] == "" {
				return usage("a snapshot or a generation is missing")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.Rollback(cmd.Context(), args[0], args[1], force)
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error { return say(w, "%s is as it was at %s", v.Name, args[1]) })
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "close open connections")
	return a.jsonFlag(cmd)
}
