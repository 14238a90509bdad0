package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/publication"
)

// Stats returns the counters since the daemon started. With the name of a volume, the
// latencies are those of that volume.
func (h *Host) Stats(_ context.Context, name string) (api.Stats, error) {
	var s api.Stats
	lat := &h.exports.Latency
	if name != "" {
		d, err := h.disks.Local(name, false)
		if err != nil {
			return s, err
		}
		lat = d.Latencies()
	}
	s.Latency = lat.Summaries()
	if h.cfg.Counter != nil {
		n := h.cfg.Counter.Counts()
		s.Requests = publication.Requests(h.cfg.Counter)
		s.BytesUp, s.BytesDown = n.BytesUp, n.BytesDown
	}
	c := &h.disks.Cache.Stats
	s.Cache.Hits, s.Cache.Misses = c.Hits.Load(), c.Misses.Load()
	s.Cache.FetchedBytes, s.Cache.ServedBytes = c.Fetched.Load(), c.Served.Load()
	s.Cache.LostBlocks = c.Gone.Load()
	s.Cache.DedupHits = h.publisher.Dedup.Load()
	h.disks.Cache.Expire()
	s.Prefetch.FetchedBytes, s.Prefetch.UsedBytes, s.Prefetch.WastedBytes = c.Ahead.Fetched.Load(), c.Ahead.Used.Load(), c.Ahead.Wasted.Load()
	s.Prefetch.BadLists = h.boots.BadLists.Load()
	p := &h.peers.Stats
	s.Peers.FetchedBytes, s.Peers.ServedBytes, s.Peers.BadBlocks = p.Fetched.Load(), p.Served.Load(), p.Bad.Load()
	x := &h.scrubber.Stats
	s.Scrub = api.ScrubStats{Blocks: x.Blocks.Load(), Bytes: x.Bytes.Load(), Damaged: x.Damaged.Load(), Repaired: x.Repaired.Load(), Lost: x.Lost.Load()}
	s.Panics = h.panics.Load()
	s.Limits = map[string]api.Limit{}
	for _, u := range h.cfg.Limits() {
		s.Limits[u.Name] = api.Limit{Used: u.Used, Limit: u.Limit}
	}
	w := &h.disks.WAL.Stats
	s.WAL.Syncs, s.WAL.Bytes, s.WAL.CleanedBytes = w.Syncs.Load(), w.Bytes.Load(), w.Cleaned.Load()
	return s, nil
}
