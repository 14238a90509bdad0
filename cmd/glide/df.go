package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newDf(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "df [NAME]",
		Short: "Show the space that volumes use",
		Long: `Shows the space that a volume uses, or all of this host's volumes together and each
of them: its size, data that is not in the store yet, data that it alone has, data
shared with others, what removing it would free, and what the store holds of it,
compressed. Sharing is counted among this host's volumes.

A volume and its snapshots are removed together, so they count as one. NAME@SNAPSHOT
shows one snapshot: what removing it alone would free, and what it shares, also with
its own volume.`,
		Example: `  glide df
  glide df vm-1
  glide df vm-1@monday`,
		Args:              takes(0, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(true, args...)
			if err != nil {
				return err
			}
			u, err := c.Usage(cmd.Context(), first(args))
			if err != nil {
				return err
			}
			return a.print(u, func(w io.Writer) error { return printUsage(w, &u) })
		},
	}
	return a.jsonFlag(cmd)
}

// sharersShown is how many of the volumes that share data are listed; --json has all.
const sharersShown = 20

func printUsage(w io.Writer, u *client.Usage) error {
	err := terminal.Table(w, [][]string{
		{"logical", size.Human(u.Logical)},
		{"dirty", size.Human(u.Dirty)},
		{"exclusive", size.Human(u.Exclusive)},
		{"shared", size.Human(u.Shared)},
		{"freed if removed", size.Human(u.FreedIfRemoved)},
		{"stored", size.Human(u.Stored)},
		{"deduplication", fmt.Sprintf("%.2f", u.DedupRatio)},
		{"compression", fmt.Sprintf("%.2f", u.CompressionRatio)},
	})
	rows := [][]string{{"NAME", "LOGICAL", "DIRTY", "EXCLUSIVE", "SHARED", "FREED", "STORED"}}
	row := func(name string, s *client.Space) {
		rows = append(rows, []string{name, size.Human(s.Logical), size.Human(s.Dirty), size.Human(s.Exclusive), size.Human(s.Shared), size.Human(s.FreedIfRemoved), size.Human(s.Stored)})
	}
	snapshots := func(list []client.SnapshotUsage) {
		for i := range list {
			row("  @"+list[i].Name, &list[i].Space)
		}
	}
	for i := range u.Volumes {
		row(u.Volumes[i].Name, &u.Volumes[i].Space)
		snapshots(u.Volumes[i].Snapshots)
	}
	snapshots(u.Snapshots)
	if err == nil && len(rows) > 1 {
		if err = say(w, ""); err == nil {
			err = terminal.Table(w, rows)
		}
	}
	if err != nil || len(u.SharedWith) == 0 {
		return err
	}
	rows = [][]string{{"SHARED WITH", "BYTES"}}
	for i, s := range u.SharedWith {
		if i == sharersShown {
			rows = append(rows, []string{fmt.Sprintf("and %d more", len(u.SharedWith)-i)})
			break
		}
		rows = append(rows, []string{s.Name, size.Human(s.Bytes)})
	}
	if err := say(w, ""); err != nil {
		return err
	}
	return terminal.Table(w, rows)
}

// first is the only argument, or "".
func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
