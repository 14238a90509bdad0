package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
)

func newShow(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "show NAME",
		Short:             "Describe a volume",
		Long:              "Prints everything that is known about a volume of this host or of the store.",
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(true, args...)
			if err != nil {
				return err
			}
			v, err := c.Show(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) error { return printVolume(w, &v) })
		},
	}
	return a.jsonFlag(cmd)
}

func printVolume(w io.Writer, v *client.Volume) error {
	unless0 := func(n uint64, text, zero string) string {
		if n == 0 {
			return zero
		}
		return text
	}
	unpublished := "-"
	if v.Unpublished > 0 {
		unpublished = took(v.Unpublished)
	}
	rows := [][]string{
		{"name", v.Name},
		{"id", v.ID},
		{"state", v.State},
		{"size", size.Human(v.Size)},
		{"block size", size.Human(v.BlockSize)},
		{"durability", v.Durability},
		{"owner", orDash(v.Owner)},
		{"generation", orDash(v.Generation)},
		{"parent", orDash(v.Parent)},
		{"created", day(v.CreatedAt)},
		{"dirty", size.Human(v.DirtyBytes)},
		{"unpublished for", unpublished},
		{"on this host", size.Human(v.LocalBytes)},
		{"in the store", size.Human(v.StoreBytes)},
		{"connections", strconv.Itoa(v.Exports)},
		{"device", orDash(v.Device)},
		{"iops", unless0(v.IOPS, strconv.FormatUint(v.IOPS, 10), "no limit")},
		{"bandwidth", unless0(v.Bandwidth, size.Human(v.Bandwidth)+"/s", "no limit")},
		{"boot list", fmt.Sprintf("%d blocks, the last boot read %d", v.BootBlocks, v.BootUsed)},
		{"dirty budget", unless0(v.DirtyBudget, size.Human(v.DirtyBudget), "the host's")},
	}
	if v.Reason != "" {
		rows = slices.Insert(rows, 3, []string{"because", v.Reason})
	}
	if v.Durability == "continuous" {
		rows = append(rows, []string{"rpo", took(v.RPOms)})
	}
	for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
		rows = append(rows, []string{"label " + k, v.Labels[k]})
	}
	return table(w, rows)
}
