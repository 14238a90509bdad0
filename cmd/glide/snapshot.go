package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newSnapshot(a *app) *cobra.Command {
	var expires string
	cmd := &cobra.Command{
		Use:   "snapshot NAME SNAPSHOT [--expires DURATION]",
		Short: "Take a snapshot of a volume",
		Long: `Keeps the present content of a volume under a name. NAME@SNAPSHOT can be forked,
exported, compared, served read-only and rolled back to.`,
		Example: `  glide snapshot vm1 before-upgrade
  glide snapshot vm1 daily --expires 30d`,
		Args:              takes(2, 2),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(false, args[0]); err != nil {
				return err
			}
			c, err := a.clientFor(true, args[0]+"@"+args[1])
			if err != nil {
				return err
			}
			s, err := c.Snapshot(cmd.Context(), args[0], args[1], expires)
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) error { return say(w, "kept %s@%s", s.Volume, s.Name) })
		},
	}
	cmd.Flags().StringVar(&expires, "expires", "", "remove it by itself after a `DURATION`, such as 12h or 30d")
	return a.jsonFlag(cmd)
}

func newSnapshots(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "snapshots NAME",
		Short:             "List a volume's snapshots",
		Long:              "Lists the snapshots of a volume, the oldest first. `glide rm NAME@SNAPSHOT` removes one.",
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(false, args...)
			if err != nil {
				return err
			}
			list, err := c.Snapshots(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(list, func(w io.Writer) error {
				rows := [][]string{{"SNAPSHOT", "CREATED", "SIZE", "GENERATION", "EXPIRES"}}
				for _, s := range list {
					rows = append(rows, []string{s.Name, terminal.Day(s.CreatedAt), size.Human(s.Size), terminal.OrDash(s.Generation), dayOrDash(s.ExpiresAt)})
				}
				return terminal.Table(w, rows)
			})
		},
	}
	return a.jsonFlag(cmd)
}
