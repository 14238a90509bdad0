package main

import (
	"cmp"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/terminal"
)

// maxForks bounds -n: each fork is a volume that is served.
const maxForks = 10_000

func newFork(a *app) *cobra.Command {
	var r client.ForkRequest
	cmd := &cobra.Command{
		Use:   "fork SOURCE NEW [-n COUNT] [--at SNAPSHOT|GENERATION|TIME] [--lazy]",
		Short: "Fork a volume or a snapshot",
		Long: `Creates a volume with the content of SOURCE, a volume or a snapshot, and shares
all of its blocks. That takes milliseconds, whatever the size. With -n COUNT it
creates NEW-1 to NEW-COUNT, all of the same state.

If another host holds SOURCE, that host is asked to flush first. If it cannot, the
fork fails (exit 3), or with --lazy takes the newest commit and says how old it is.`,
		Example: `  glide fork debian vm1
  glide fork debian vm -n 10
  glide fork vm1 vm1-yesterday --at 24h`,
		Args:              takes(2, 2),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Source, r.Name = args[0], args[1]
			names := []string{r.Name}
			many := cmd.Flags().Changed("count")
			if many {
				if r.Count < 1 || r.Count > maxForks {
					return usage("-n %d: choose 1 to %d forks", r.Count, maxForks)
				}
				names = []string{fmt.Sprintf("%s-%d", r.Name, r.Count)}
			}
			if err := cmp.Or(checkNames(true, r.Source), checkNames(false, names...), checkDurability(r.Durability)); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			forks, err := c.Fork(cmd.Context(), r)
			if err != nil {
				return err
			}
			var v any = forks
			if !many && len(forks) == 1 {
				v = forks[0]
			}
			return a.print(v, func(w io.Writer) error { return printForks(w, forks) })
		},
	}
	cmd.Flags().IntVarP(&r.Count, "count", "n", 0, "create `COUNT` forks, NEW-1 to NEW-COUNT")
	cmd.Flags().StringVar(&r.At, "at", "", "fork a `PAST` state: a snapshot, a generation (3.10), a time (RFC 3339) or an age (30s)")
	cmd.Flags().StringVar(&r.Durability, "durability", "", "`POLICY`: local, continuous or sync (default local)")
	cmd.Flags().BoolVar(&r.Lazy, "lazy", false, "take the newest commit if the owner cannot flush")
	cmd.Flags().BoolVar(&r.Isolate, "isolate", false, "give a fork of another tenant's snapshot keys of its own")
	return a.jsonFlag(cmd)
}

func printForks(w io.Writer, forks []client.Fork) error {
	for _, f := range forks {
		age := ""
		if f.AgeMs > 0 {
			age = fmt.Sprintf(", as it was %s ago", terminal.Took(f.AgeMs))
		}
		if err := say(w, "forked %s to %s in %s%s", f.Parent, f.Name, terminal.Took(f.ElapsedMs), age); err != nil {
			return err
		}
	}
	return nil
}
