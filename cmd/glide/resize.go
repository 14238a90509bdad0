package main

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/internal/size"
)

func newResize(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "resize NAME SIZE",
		Short:             "Grow a volume",
		Long:              "Grows a volume, even while it is in use. Shrinking is refused.",
		Example:           "  glide resize vm1 40G",
		Args:              takes(2, 2),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(false, args[0]); err != nil {
				return err
			}
			n, err := size.ParseVolume(args[1])
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.Resize(cmd.Context(), args[0], n)
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error { return say(w, "%s has %s", v.Name, size.Human(v.Size)) })
		},
	}
	return a.jsonFlag(cmd)
}
