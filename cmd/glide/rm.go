package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newRm(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm NAME... [--force]",
		Aliases: []string{"remove"},
		Short:   "Remove volumes or snapshots",
		Long: `Removes volumes (NAME) and snapshots (NAME@SNAPSHOT), here and in the store. A
volume with open connections is removed only with --force. If one cannot be
removed, the others still are.`,
		Example:           "  glide rm vm1 vm2@before",
		Args:              takes(1, -1),
		ValidArgsFunction: a.volumes(-1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(true, args...)
			if err != nil {
				return err
			}
			removed, failed := []string{}, make([]error, len(args))
			for i, name := range args {
				if failed[i] = c.Remove(cmd.Context(), name, force); failed[i] == nil {
					removed = append(removed, name)
				}
			}
			if err := a.print(removed, func(io.Writer) error { return nil }); err != nil {
				return err
			}
			for _, err := range failed {
				if err != nil {
					complain(a.err, err)
				}
			}
			return told(worst(failed))
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove volumes with open connections too")
	return a.jsonFlag(cmd)
}
