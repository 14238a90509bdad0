package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newScrub(a *app) *cobra.Command {
	var store, local bool
	cmd := &cobra.Command{
		Use:   "scrub [--store-only|--local-only]",
		Short: "Check everything on the host and in the store, and repair it",
		Long: `Reads what this host holds (the log, the cache, map pages) and every object of the
store that a volume, a snapshot or the history reaches, and checks it against
checksums and hashes. What is damaged is repaired from any other good copy: the
store, this host's cache, or those of other hosts (--peers). If something could not
be repaired, it says what is lost, of which volumes and where, and exits 1.

glide serve --scrub-rate does the same in the background, slowly.`,
		Example: `  glide scrub
  glide scrub --store-only --json`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if store && local {
				return usage("glide scrub: --store-only and --local-only together leave nothing to check: give one of them, or none")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, stop := a.meter(cmd.Context(), "scrubbing")
			v, err := c.Scrub(ctx, store, local)
			stop()
			if err != nil {
				return err
			}
			if err := a.print(v, func(w io.Writer) error { return printScrub(w, &v) }); err != nil {
				return err
			}
			if n := v.Damaged - v.Repaired; n > 0 || len(v.Lost) > 0 {
				return errs.New(errs.Corrupt, "%d of %d damaged places could not be repaired: glide events says what to do", n, v.Damaged)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&store, "store-only", false, "check only the store")
	cmd.Flags().BoolVar(&local, "local-only", false, "check only this host")
	return a.jsonFlag(cmd)
}

func printScrub(w io.Writer, v *client.Scrub) error {
	for _, l := range v.Lost {
		if len(l.Volumes) == 0 {
			if err := say(w, "not repaired: %s", terminal.OneLine(l.Key)); err != nil {
				return err
			}
			continue
		}
		what := "some bytes"
		if len(l.Ranges) > 0 {
			parts := make([]string, 0, maxRangesSaid)
			for _, r := range l.Ranges[:min(len(l.Ranges), maxRangesSaid)] {
				parts = append(parts, size.Human(r.Length)+" at "+size.Human(r.Offset))
			}
			if what = strings.Join(parts, ", "); len(l.Ranges) > maxRangesSaid {
				what += ", …"
			}
		}
		if err := say(w, "lost: %s of %s (%s)", what, terminal.OneLine(strings.Join(l.Volumes, ", ")), terminal.OneLine(l.Key)); err != nil {
			return err
		}
	}
	if v.Damaged > 0 {
		if err := say(w, "%d damaged, %d of them repaired", v.Damaged, v.Repaired); err != nil {
			return err
		}
	}
	return say(w, "checked %d blocks, %s", v.Blocks, size.Human(v.Bytes))
}

// maxRangesSaid is how many ranges of one loss people are told; JSON has all.
const maxRangesSaid = 8
