package main

import (
	"cmp"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
)

func newCreate(a *app) *cobra.Command {
	var r client.CreateRequest
	var sizeText, blockSize, rpo string
	cmd := &cobra.Command{
		Use:   "create NAME --size SIZE",
		Short: "Create an empty volume",
		Long: `Creates an empty volume and serves it. Its size is a multiple of 512 bytes. It
takes no space until it is written to. With --isolate it gets, in a sealed tenant, keys of
its own, which its forks share: it can be erased alone (glide tenant erase), and shares no
blocks with the tenant's other volumes.`,
		Example: "  glide create vm1 --size 20G",
		Args:    takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r.Name = args[0]
			if err := cmp.Or(checkNames(false, r.Name), checkDurability(r.Durability)); err != nil {
				return err
			}
			if sizeText == "" {
				return usage("glide create: --size SIZE is missing")
			}
			var err error
			if r.Size, err = size.ParseVolume(sizeText); err != nil {
				return err
			}
			if blockSize != "" {
				if r.BlockSize, err = size.ParseBlock(blockSize); err != nil {
					return err
				}
			}
			if rpo != "" {
				d, err := positive("--rpo", rpo)
				if err != nil {
					return err
				}
				r.RPOms = float64(d) / float64(time.Millisecond)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.Create(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error { return say(w, "created %s, %s", v.Name, size.Human(v.Size)) })
		},
	}
	cmd.Flags().StringVar(&sizeText, "size", "", "`SIZE` of the volume, such as 20G (required)")
	cmd.Flags().StringVar(&blockSize, "block-size", "", "`SIZE` of a block, the unit of sharing and transfer, 4K to 1M (default 128K)")
	cmd.Flags().StringVar(&r.Durability, "durability", "", "what an acknowledged flush means, a `POLICY`: local, continuous or sync (default local)")
	cmd.Flags().StringVar(&rpo, "rpo", "", "time of writes that continuous may lose, a `DURATION` (default 5s)")
	cmd.Flags().BoolVar(&r.Isolate, "isolate", false, "give it and its forks keys of their own")
	return a.jsonFlag(cmd)
}

// checkDurability checks the word. The daemon decides whether this release has
// the policy.
func checkDurability(s string) error {
	switch s {
	case "", "local", "continuous", "sync":
		return nil
	}
	return usage("%q is not a durability: choose local, continuous or sync", s)
}

// positive reads a duration.
func positive(what, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, usage("%s: %.60q is not a duration above 0, such as 5s", what, s)
	}
	return d, nil
}
