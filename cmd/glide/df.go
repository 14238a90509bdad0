package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newDf(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "df [NAME]",
		Short: "Show the space that volumes use",
		Long: `Shows the space that a volume uses, or all of this host's volumes together: mapped
data, data that is not in the store yet, data shared with others, and what removing
it would free. Sharing is counted among this host's volumes.`,
		Args:              takes(0, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(false, args...)
			if err != nil {
				return err
			}
			u, err := c.Usage(cmd.Context(), first(args))
			if err != nil {
				return err
			}
			return a.print(u, func(w io.Writer) error {
				return terminal.Table(w, [][]string{
					{"logical", size.Human(u.Logical)},
					{"dirty", size.Human(u.Dirty)},
					{"exclusive", size.Human(u.Exclusive)},
					{"shared", size.Human(u.Shared)},
					{"freed if removed", size.Human(u.FreedIfRemoved)},
					{"stored", size.Human(u.Stored)},
					{"deduplication", fmt.Sprintf("%.2f", u.DedupRatio)},
					{"compression", fmt.Sprintf("%.2f", u.CompressionRatio)},
				})
			})
		},
	}
	return a.jsonFlag(cmd)
}

// first is the only argument, or "".
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
