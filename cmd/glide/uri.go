package main

import (
	"io"

	"github.com/spf13/cobra"
)

func newURI(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "uri NAME",
		Short:             "Print a volume's NBD URI",
		Long:              "Prints the NBD URI of a volume, or of a snapshot, for QEMU, nbdcopy, libnbd and nbd-client.",
		Example:           "  qemu-system-x86_64 … -drive file=\"$(glide uri vm1)\",format=raw,if=virtio",
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(true, args...)
			if err != nil {
				return err
			}
			uri, err := c.URI(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(map[string]string{"uri": uri}, func(w io.Writer) error { return say(w, "%s", uri) })
		},
	}
	return a.jsonFlag(cmd)
}
