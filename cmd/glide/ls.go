package main

import (
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newLs(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Long:    "Lists this host's volumes, or every volume in the store.",
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := c.List(cmd.Context(), all)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error { return printVolumes(w, list) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every volume in the store, not only this host's")
	return a.jsonFlag(cmd)
}

func printVolumes(w io.Writer, list []client.Volume) error {
	rows := [][]string{{"NAME", "STATE", "SIZE", "DIRTY", "UNPUBLISHED", "GENERATION", "EXPORTS", "PARENT"}}
	for i := range list {
		v := &list[i]
		unpublished := "-"
		if v.Unpublished > 0 {
			unpublished = terminal.Took(v.Unpublished)
		}
		rows = append(rows, []string{
			v.Name, v.State, size.Human(v.Size), size.Human(v.DirtyBytes), unpublished,
			terminal.OrDash(v.Generation), strconv.Itoa(v.Exports), terminal.OrDash(v.Parent),
		})
	}
	return terminal.Table(w, rows)
}
