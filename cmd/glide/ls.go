package main

import (
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newLs(a *app) *cobra.Command {
	var all, removed bool
	cmd := &cobra.Command{
		Use:     "ls [--all | --removed]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Long:    "Lists this host's volumes, every volume in the store, or the removed ones that\nglide restore can bring back.",
		Args:    takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if all && removed {
				return usage("--all and --removed: choose one")
			}
			if removed {
				list, err := c.Removed(cmd.Context())
				if err != nil {
					return err
				}
				return a.print(list, func(w io.Writer) error { return printRemoved(w, list) })
			}
			list, err := c.List(cmd.Context(), all)
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error { return printVolumes(w, list) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every volume in the store, not only this host's")
	cmd.Flags().BoolVar(&removed, "removed", false, "removed volumes, until glide gc has collected them")
	return a.jsonFlag(cmd)
}

func printRemoved(w io.Writer, list []client.Removed) error {
	rows := [][]string{{"NAME", "SIZE", "GENERATION", "REMOVED", "UNTIL", "PARENT"}}
	for i := range list {
		r := &list[i]
		rows = append(rows, []string{r.Name, size.Human(r.Size), r.Generation, terminal.Day(r.RemovedAt), dayOrDash(r.Until), terminal.OrDash(r.Parent)})
	}
	return terminal.Table(w, rows)
}

// dayOrDash is a time in a table, which may not be known.
func dayOrDash(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return terminal.Day(t)
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
