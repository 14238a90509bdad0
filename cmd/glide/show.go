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
	"github.com/paraglide/glide/internal/terminal"
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
		unpublished = terminal.Took(v.Unpublished)
	}
	rows := [][]string{
		{"name", v.Name},
		{"id", v.ID},
		{"state", v.State},
		{"size", size.Human(v.Size)},
		{"block size", size.Human(v.BlockSize)},
		{"durability", v.Durability},
		{"owner", terminal.OrDash(v.Owner)},
		{"generation", terminal.OrDash(v.Generation)},
		{"parent", terminal.OrDash(v.Parent)},
		{"created", terminal.Day(v.CreatedAt)},
		{"dirty", size.Human(v.DirtyBytes)},
		{"unpublished for", unpublished},
		{"on this host", size.Human(v.LocalBytes)},
		{"in the store", size.Human(v.StoreBytes)},
		{"connections", strconv.Itoa(v.Exports)},
		{"device", terminal.OrDash(v.Device)},
		{"iops", unless0(v.IOPS, strconv.FormatUint(v.IOPS, 10), "no limit")},
		{"bandwidth", unless0(v.Bandwidth, size.Human(v.Bandwidth)+"/s", "no limit")},
		{"boot list", fmt.Sprintf("%d blocks, the last boot read %d", v.BootBlocks, v.BootUsed)},
		{"dirty budget", unless0(v.DirtyBudget, size.Human(v.DirtyBudget), "the host's")},
	}
	for _, row := range [][]string{{"isolated in", v.Isolated}, {"keep", v.Keep}} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	if v.Reason != "" {
		rows = slices.Insert(rows, 3, []string{"because", v.Reason})
	}
	if !v.VerifiedAt.IsZero() {
		rows = append(rows, []string{"verified", terminal.Day(v.VerifiedAt)})
	}
	if v.Durability == "continuous" {
		rows = append(rows, []string{"rpo", terminal.Took(v.RPOms)})
	}
	for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
		rows = append(rows, []string{"label " + k, v.Labels[k]})
	}
	return terminal.Table(w, rows)
}
