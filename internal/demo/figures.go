package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// visit is a boot of the disk on the second host, or a reading of it.
type visit struct {
	init, total time.Duration
	fetched     uint64
	requests    api.Requests
}

// figures are what the run measured.
type figures struct {
	imported     api.Import
	forked       []api.Fork
	forkRequests api.Requests // of host 1 while it forked
	flushed      []api.Flush
	remote       api.Fork
	cold, warm   visit
	prints       [forks]fingerprint

	volumes    int
	presented  uint64
	stored     int64
	hostTotals [2]api.Requests
}

// count takes stock at the end.
func (d *demo) count(ctx context.Context) (err error) {
	for i, h := range []*host{d.one, d.two} {
		var vs []api.Volume
		if err := h.do(ctx, &vs, "ls"); err != nil {
			return err
		}
		for _, v := range vs {
			d.volumes++
			d.presented += v.Size
		}
		s, err := h.stats(ctx)
		if err != nil {
			return err
		}
		d.hostTotals[i] = s.Requests
	}
	d.stored, err = d.objects.size()
	return err
}

func (h *host) stats(ctx context.Context) (s api.Stats, err error) {
	return s, h.do(ctx, &s, "stats")
}

func (f *figures) slowestFork() (ms float64) {
	for _, k := range f.forked {
		ms = max(ms, k.ElapsedMs)
	}
	return ms
}

func (f *figures) flushTotal() (bytes uint64, r api.Requests) {
	for _, k := range f.flushed {
		bytes += k.BytesUploaded
		r = add(r, k.Requests)
	}
	return bytes, r
}

// rows is the table.
func (f *figures) rows(d *demo) []row {
	flushed, flushRequests := f.flushTotal()
	size := f.imported.Size
	rate := float64(f.imported.BytesRead) / (1 << 20) / max(f.imported.ElapsedMs/1000, 1e-3)
	rows := []row{
		{what: "import"},
		{"data of the image", bytesText(f.imported.BytesRead), fmt.Sprintf("of %s; the rest is holes", bytesText(size))},
		{"time", millis(f.imported.ElapsedMs), fmt.Sprintf("%.0f MiB/s", rate)},
		{"uploaded", bytesText(f.imported.BytesUploaded), requestsText(f.imported.Requests)},

		{what: "fork"},
		{fmt.Sprintf("%d forks on one host, slowest", forks), millis(f.slowestFork()), requestsText(f.forkRequests)},
		{"a fork on another host", millis(f.remote.ElapsedMs), requestsText(f.remote.Requests)},
		{fmt.Sprintf("flush of the %d forks", forks), bytesText(flushed), requestsText(flushRequests)},

		{what: "space"},
		{"presented to guests", bytesText(f.presented), fmt.Sprintf("%d volumes on two hosts", f.volumes)},
		{"stored", bytesText(f.stored), fmt.Sprintf("in %s; %.0f times less", d.objects.what, float64(f.presented)/float64(max(f.stored, 1)))},
	}
	note := func(v visit) string {
		s := fmt.Sprintf("%.2f%% of the image; %s", 100*float64(v.fetched)/float64(size), requestsText(v.requests))
		return s
	}
	if d.boots {
		rows = append(rows,
			row{what: "boot on the second host"},
			row{"cold, to init", seconds(f.cold.init), fmt.Sprintf("%s to power-off; the processor is emulated", seconds(f.cold.total))},
			row{"cold, fetched", bytesText(f.cold.fetched), note(f.cold)},
			row{"warm, to init", seconds(f.warm.init), seconds(f.warm.total) + " to power-off"},
			row{"warm, fetched", bytesText(f.warm.fetched), note(f.warm)})
	} else {
		rows = append(rows,
			row{what: "reading all of it on the second host (not booted: the disk's content is unknown)"},
			row{"cold", seconds(f.cold.total), ""},
			row{"cold, fetched", bytesText(f.cold.fetched), note(f.cold)},
			row{"warm", seconds(f.warm.total), ""},
			row{"warm, fetched", bytesText(f.warm.fetched), note(f.warm)})
	}
	total := func(r api.Requests) string {
		return fmt.Sprint(r.Put + r.Get + r.List + r.Head + r.Delete)
	}
	return append(rows, row{what: "store requests, in all"},
		row{"host 1", total(f.hostTotals[0]), requestsText(f.hostTotals[0])},
		row{"host 2", total(f.hostTotals[1]), requestsText(f.hostTotals[1])})
}

// requestsText lists requests by kind.
func requestsText(r api.Requests) string {
	var parts []string
	for _, k := range []struct {
		n    uint64
		name string
	}{{r.Put, "put"}, {r.Get, "get"}, {r.List, "list"}, {r.Head, "head"}, {r.Delete, "delete"}} {
		if k.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", k.n, k.name))
		}
	}
	if len(parts) == 0 {
		return "no store request"
	}
	return strings.Join(parts, ", ")
}

func millis(ms float64) string {
	if ms >= 1000 {
		return fmt.Sprintf("%.1f s", ms/1000)
	}
	return fmt.Sprintf("%.1f ms", ms)
}

func add(a, b api.Requests) api.Requests {
	return api.Requests{
		Put: a.Put + b.Put, Get: a.Get + b.Get, List: a.List + b.List, Head: a.Head + b.Head, Delete: a.Delete + b.Delete,
	}
}

func subtract(a, b api.Requests) api.Requests {
	return api.Requests{
		Put: a.Put - b.Put, Get: a.Get - b.Get, List: a.List - b.List, Head: a.Head - b.Head, Delete: a.Delete - b.Delete,
	}
}
