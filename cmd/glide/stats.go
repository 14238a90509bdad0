package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
	"github.com/paraglide/glide/internal/terminal"
)

func newStats(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stats [NAME]",
		Short: "Print counters and latencies",
		Long: `Prints counters since the daemon's start. With NAME, the latencies are those of one
volume; counters of the store, the cache and the log exist for the host only.
Prometheus finds all of them at /metrics.`,
		Args:              takes(0, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.clientFor(false, args...)
			if err != nil {
				return err
			}
			s, err := c.Stats(cmd.Context(), first(args))
			if err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) error { return printStats(w, &s) })
		},
	}
	return a.jsonFlag(cmd)
}

func printStats(w io.Writer, s *client.Stats) error {
	r := s.Requests
	err := terminal.Table(w, [][]string{
		{"store requests", fmt.Sprintf("%d put, %d get, %d list, %d head, %d delete", r.Put, r.Get, r.List, r.Head, r.Delete)},
		{"to the store", size.Human(s.BytesUp)},
		{"from the store", size.Human(s.BytesDown)},
		{"cache", fmt.Sprintf("%d hits, %d misses", s.Cache.Hits, s.Cache.Misses)},
		{"fetched", size.Human(s.Cache.FetchedBytes)},
		{"served", size.Human(s.Cache.ServedBytes)},
		{"ahead of need", fmt.Sprintf("%s fetched, %s used, %s wasted", size.Human(s.Prefetch.FetchedBytes), size.Human(s.Prefetch.UsedBytes), size.Human(s.Prefetch.WastedBytes))},
		{"other hosts", fmt.Sprintf("%s from their SSDs, %s to them, %d bad blocks", size.Human(s.Peers.FetchedBytes), size.Human(s.Peers.ServedBytes), s.Peers.BadBlocks)},
		{"not uploaded", fmt.Sprintf("%d blocks that the store had", s.Cache.DedupHits)},
		{"log", fmt.Sprintf("%s in %d syncs, %s copied by cleaning", size.Human(s.WAL.Bytes), s.WAL.Syncs, size.Human(s.WAL.CleanedBytes))},
	})
	if err != nil || len(s.Latency) == 0 {
		return err
	}
	rows := [][]string{{"REQUEST", "COUNT", "P50", "P99", "P99.9", "MAX"}}
	for _, op := range slices.Sorted(maps.Keys(s.Latency)) {
		l := s.Latency[op]
		rows = append(rows, []string{op, fmt.Sprint(l.Count), micros(l.P50), micros(l.P99), micros(l.P999), micros(l.Max)})
	}
	if err := say(w, ""); err != nil {
		return err
	}
	return terminal.Table(w, rows)
}

func micros(us float64) string {
	if us < 10_000 {
		return fmt.Sprintf("%.0f µs", us)
	}
	return terminal.Took(us / 1e3)
}
