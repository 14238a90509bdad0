package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newLog(a *app) *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "log NAME [-n COUNT]",
		Short: "List a volume's commits",
		Long: `Lists the commits of a volume, the newest first: all of them, page by page, or the
newest COUNT with -n, which costs about COUNT store requests. A volume that was
never published has none.`,
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("count") && count < 1 {
				return errs.New(errs.Invalid, "-n %d: it must be at least 1", count)
			}
			c, err := a.clientFor(false, args...)
			if err != nil {
				return err
			}
			if a.json { // one document, or none on an error
				list := []client.Commit{}
				err := c.Log(cmd.Context(), args[0], count, func(page []client.Commit) error {
					list = append(list, page...)
					return nil
				})
				if err != nil {
					return err
				}
				return a.print(list, nil)
			}
			rows := [][]string{{"GENERATION", "TIME", "KIND", "CAUSE", "OWNER", "SIZE", "BYTES"}}
			return c.Log(cmd.Context(), args[0], count, func(page []client.Commit) error {
				err := printCommits(a.out, rows, page)
				rows = nil
				return err
			})
		},
	}
	cmd.Flags().IntVarP(&count, "count", "n", 0, "the newest `COUNT` commits only")
	return a.jsonFlag(cmd)
}

// printCommits prints a page after its heading.
func printCommits(w io.Writer, rows [][]string, page []client.Commit) error {
	for _, e := range page {
		rows = append(rows, []string{e.Generation, terminal.Day(e.Time), e.Kind, terminal.OrDash(e.Cause), terminal.OrDash(e.Owner), size.Human(e.Size), size.Human(e.Bytes)})
	}
	return terminal.Table(w, rows)
}
