package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newDiff(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "diff A B",
		Short:             "Compare two volumes",
		Long:              "Prints the ranges in which two volumes or snapshots differ, and how much they share.",
		Example:           "  glide diff vm1@before vm1",
		Args:              takes(2, 2),
		ValidArgsFunction: a.volumes(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(true, args...)
			if err != nil {
				return err
			}
			d, err := c.Diff(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.print(d, func(w io.Writer) error {
				if len(d.Ranges) > 0 {
					rows := [][]string{{"OFFSET", "LENGTH"}}
					for _, r := range d.Ranges {
						rows = append(rows, []string{fmt.Sprint(r.Offset), fmt.Sprint(r.Length)})
					}
					if err := terminal.Table(w, rows); err != nil {
						return err
					}
				}
				return say(w, "%s and %s differ in %s in %d ranges, and share %s", args[0], args[1], size.Human(d.DifferentBytes), len(d.Ranges), size.Human(d.SharedBytes))
			})
		},
	}
	return a.jsonFlag(cmd)
}
