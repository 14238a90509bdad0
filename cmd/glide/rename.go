package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newRename(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rename NAME NEW",
		Aliases:           []string{"mv"},
		Short:             "Give a volume another name",
		Long:              "Gives a volume another name, here and in the store.",
		Args:              takes(2, 2),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(false, args...)
			if err != nil {
				return err
			}
			v, err := c.Rename(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error { return say(w, "renamed %s to %s", args[0], v.Name) })
		},
	}
	return a.jsonFlag(cmd)
}
