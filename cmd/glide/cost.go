package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newCost(a *app) *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "cost [NAME]",
		Short: "Show what requests to the store are made for, and what they cost",
		Long: `Shows the requests that the daemon has made to the store since it started, tries
included, and the bytes of objects moved, by what they were made for. With NAME, only
those made for that volume.

A request counts under the command or the background work that began it: what a fork
flushes is part of the fork. The causes are boot (boot lists and what is in them), read
(by guests), prefetch (next to what guests read), hydrate, flush, fold (commits that
become packs), ship (commits of continuous and sync volumes), snapshot (and rollback),
fork, import, export, wake (and sleep, and taking over), manage (create, set, rename,
rm), verify, list (ls, show, log, diff, df, hosts, doctor), gc, scrub, upkeep (seal checks, pins,
the probe of the store) and other, which is the rest.

If the daemon has prices (glide serve --price-put and others), the last line is what a
month of 30 days costs: the requests and bytes counted since the start, as if they went
on at that rate, and what the volume, or all volumes of this host, store now. So it
means little soon after a start. HEAD costs what GET does, and LIST what PUT does
unless --price-list is given.`,
		Args:              takes(0, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(false, args...)
			if err != nil {
				return err
			}
			out, err := c.Cost(cmd.Context(), first(args))
			if err != nil {
				return err
			}
			return a.print(out, func(w io.Writer) error { return printCost(w, &out) })
		},
	})
}

func printCost(w io.Writer, c *client.Cost) error {
	if err := say(w, "since %s", terminal.Day(c.Since)); err != nil {
		return err
	}
	rows := [][]string{{"CAUSE", "PUT", "GET", "LIST", "HEAD", "DELETE", "UP", "DOWN"}}
	row := func(name string, n *client.CauseCost) {
		rows = append(rows, []string{name, fmt.Sprint(n.Put), fmt.Sprint(n.Get), fmt.Sprint(n.List), fmt.Sprint(n.Head), fmt.Sprint(n.Delete), size.Human(n.BytesUp), size.Human(n.BytesDown)})
	}
	var all client.CauseCost
	for _, cause := range slices.Sorted(maps.Keys(c.Causes)) {
		n := c.Causes[cause]
		row(cause, &n)
		all.Put, all.Get, all.List, all.Head, all.Delete = all.Put+n.Put, all.Get+n.Get, all.List+n.List, all.Head+n.Head, all.Delete+n.Delete
		all.BytesUp, all.BytesDown = all.BytesUp+n.BytesUp, all.BytesDown+n.BytesDown
	}
	row("total", &all)
	if err := terminal.Table(w, rows); err != nil || c.Money == nil {
		return err
	}
	hint := ""
	if time.Since(c.Since) < time.Hour {
		hint = " (a guess: it was counted for less than an hour)"
	}
	return say(w, "a month at this rate costs %.2f%s", *c.Money, hint)
}
