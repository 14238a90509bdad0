package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newRestore(a *app) *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:   "restore NAME [--as NEW]",
		Short: "Bring a removed volume back",
		Long: `Brings a removed volume back as it was, with its snapshots and settings, on this
host; what was never published is lost. glide ls --removed lists what can be
restored: volumes whose history glide gc has not collected. If a name was removed
several times, the newest removal counts.`,
		Example: `  glide restore vm1
  glide restore vm1 --as vm1-old`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			names := args
			if as != "" {
				names = append(names, as)
			}
			c, err := a.clientFor(false, names...)
			if err != nil {
				return err
			}
			v, err := c.Restore(cmd.Context(), args[0], as)
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error { return say(w, "restored %s", v.Name) })
		},
	}
	cmd.Flags().StringVar(&as, "as", "", "restore it under the name `NEW`")
	return a.jsonFlag(cmd)
}
