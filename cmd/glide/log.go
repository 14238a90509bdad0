package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/size"
)

func newLog(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "log NAME",
		Short:             "List a volume's commits",
		Long:              "Lists the commits of a volume, the newest first. A volume that was never published has none.",
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(false, args...)
			if err != nil {
				return err
			}
			list, err := c.Log(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error {
				rows := [][]string{{"GENERATION", "TIME", "KIND", "CAUSE", "OWNER", "SIZE", "BYTES"}}
				for _, e := range list {
					rows = append(rows, []string{e.Generation, day(e.Time), e.Kind, orDash(e.Cause), orDash(e.Owner), size.Human(e.Size), size.Human(e.Bytes)})
				}
				return table(w, rows)
			})
		},
	}
	return a.jsonFlag(cmd)
}
