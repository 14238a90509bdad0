// Package metrics shows Prometheus what a daemon counts and what state its volumes are in.
package metrics

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/paraglide/glide/internal/api"
)

// scrapeTime is what a scrape may take.
const scrapeTime = 10 * time.Second

// Backend is what is asked at each scrape.
type Backend interface {
	List(ctx context.Context, all bool) ([]api.Volume, error)
	Stats(ctx context.Context, name string) (api.Stats, error)
	Causes() map[string]api.CauseCost
}

// Handler serves what b tells, and extra, in a registry of their own.
func Handler(b Backend, extra ...prometheus.Collector) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &collector{b})
	r.MustRegister(extra...)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// Volumes serves the metrics of some volumes alone.
func Volumes(list func(ctx context.Context) ([]api.Volume, error)) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(&volumes{list})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// volumes is the part of a collector that is about volumes.
type volumes struct {
	list func(ctx context.Context) ([]api.Volume, error)
}

// Describe implements prometheus.Collector.
func (c *volumes) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descDirty, descUnpublished, descExports, descLocal, descSize, descState, descVolumes} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *volumes) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	list, err := c.list(ctx)
	if err != nil {
		return
	}
	collectVolumes(list, func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	})
}

// collector turns List and Stats into metrics, at each scrape.
type collector struct{ b Backend }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("glide_"+name, help, labels, nil)
}

var (
	descDirty       = desc("volume_dirty_bytes", "Bytes acknowledged and not in the store.", "volume")
	descUnpublished = desc("volume_unpublished_seconds", "Age of the oldest write that is not in the store, 0 when there is none.", "volume")
	descExports     = desc("volume_exports", "Open NBD connections.", "volume")
	descLocal       = desc("volume_local_bytes", "Bytes on this host's disk.", "volume")
	descSize        = desc("volume_size_bytes", "Size of the volume.", "volume")
	descState       = desc("volume_state", "1 for the state that the volume is in.", "volume", "state")

	descRequests    = desc("store_requests_total", "Requests to the object store, tries included.", "kind")
	descStoreBytes  = desc("store_bytes_total", "Bytes of objects, to (up) and from (down) the store.", "direction")
	descCauses      = desc("store_cause_requests_total", "Requests to the object store, tries included, by what they were made for.", "cause", "kind")
	descCauseBytes  = desc("store_cause_bytes_total", "Bytes of objects, to (up) and from (down) the store, by what they were moved for.", "cause", "direction")
	descHits        = desc("cache_hits_total", "Blocks read from the cache.")
	descMisses      = desc("cache_misses_total", "Blocks that the cache did not have.")
	descFetched     = desc("cache_fetched_bytes_total", "Bytes fetched into the cache.")
	descServed      = desc("cache_served_bytes_total", "Bytes served from the cache.")
	descAhead       = desc("prefetch_bytes_total", "Bytes fetched before a guest asked for them: all, those in blocks that a guest read later, and those that none did within a minute.", "outcome")
	descBadLists    = desc("prefetch_bad_lists_total", "Boot lists that could not be used.")
	descPeerBytes   = desc("peer_bytes_total", "Bytes of blocks that other hosts sent (fetched) or got (served).", "direction")
	descPeerBad     = desc("peer_bad_blocks_total", "Blocks from other hosts that did not match their hashes.")
	descScrubBytes  = desc("scrub_checked_bytes_total", "Bytes that scrubs have read, in the background and on demand.")
	descScrubFound  = desc("scrub_damaged_total", "Objects and slots that scrubs found damaged: all, those that were repaired, and the objects and files of which something is lost.", "outcome")
	descDedup       = desc("dedup_hits_total", "Blocks not uploaded because the store had them.")
	descGone        = desc("lost_blocks_total", "Reads of blocks that the store should have and has not: an alarm.")
	descWALSyncs    = desc("wal_syncs_total", "Syncs of the log.")
	descWALBytes    = desc("wal_bytes_total", "Bytes appended to the log.")
	descWALCleaned  = desc("wal_cleaned_bytes_total", "Bytes copied within the log to clean it.")
	descOps         = desc("nbd_requests_total", "NBD requests answered.", "op")
	descLatency     = desc("nbd_request_latency_seconds", "Quantiles, since the start, of the time that NBD requests took.", "op", "quantile")
	descPanics      = desc("panics_total", "Requests that a bug ended.")
	descUsed        = desc("limit_used", "What is in use of a limit of the system.", "resource")
	descLimit       = desc("limit_max", "The limit of the system, 0 where none is known.", "resource")
	descUp          = desc("up", "1 if the daemon could tell its metrics.")
	descVolumes     = desc("volumes", "Volumes of this host, by state.", "state")
	allDescriptions = []*prometheus.Desc{
		descDirty, descUnpublished, descExports, descLocal, descSize, descState, descRequests, descStoreBytes, descCauses, descCauseBytes, descHits, descMisses,
		descFetched, descServed, descAhead, descBadLists, descPeerBytes, descPeerBad, descScrubBytes, descScrubFound, descDedup, descGone, descWALSyncs, descWALBytes, descWALCleaned, descOps, descLatency, descPanics, descUsed, descLimit, descUp, descVolumes,
	}
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range allDescriptions {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	emit := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	list, err := c.b.List(ctx, false)
	if err == nil {
		collectVolumes(list, emit)
		var st api.Stats
		if st, err = c.b.Stats(ctx, ""); err == nil {
			collectStats(&st, emit)
			collectCauses(c.b.Causes(), emit)
		}
	}
	up := 1.0
	if err != nil {
		up = 0
	}
	emit(descUp, prometheus.GaugeValue, up)
}

type emitFunc func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string)

func collectCauses(causes map[string]api.CauseCost, emit emitFunc) {
	for cause, n := range causes {
		for kind, v := range map[string]uint64{"put": n.Put, "get": n.Get, "list": n.List, "head": n.Head, "delete": n.Delete} {
			emit(descCauses, prometheus.CounterValue, float64(v), cause, kind)
		}
		emit(descCauseBytes, prometheus.CounterValue, float64(n.BytesUp), cause, "up")
		emit(descCauseBytes, prometheus.CounterValue, float64(n.BytesDown), cause, "down")
	}
}

func collectVolumes(volumes []api.Volume, emit emitFunc) {
	byState := map[string]int{}
	for i := range volumes {
		v := &volumes[i]
		byState[v.State]++
		emit(descDirty, prometheus.GaugeValue, float64(v.DirtyBytes), v.Name)
		emit(descUnpublished, prometheus.GaugeValue, v.Unpublished/1e3, v.Name)
		emit(descExports, prometheus.GaugeValue, float64(v.Exports), v.Name)
		emit(descLocal, prometheus.GaugeValue, float64(v.LocalBytes), v.Name)
		emit(descSize, prometheus.GaugeValue, float64(v.Size), v.Name)
		emit(descState, prometheus.GaugeValue, 1, v.Name, v.State)
	}
	for _, state := range api.States {
		emit(descVolumes, prometheus.GaugeValue, float64(byState[state]), state)
	}
}

func collectStats(st *api.Stats, emit emitFunc) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		emit(d, prometheus.CounterValue, float64(v), labels...)
	}
	counter(descRequests, st.Requests.Put, "put")
	counter(descRequests, st.Requests.Get, "get")
	counter(descRequests, st.Requests.List, "list")
	counter(descRequests, st.Requests.Head, "head")
	counter(descRequests, st.Requests.Delete, "delete")
	counter(descStoreBytes, st.BytesUp, "up")
	counter(descStoreBytes, st.BytesDown, "down")
	counter(descHits, st.Cache.Hits)
	counter(descMisses, st.Cache.Misses)
	counter(descFetched, st.Cache.FetchedBytes)
	counter(descServed, st.Cache.ServedBytes)
	counter(descAhead, st.Prefetch.FetchedBytes, "fetched")
	counter(descAhead, st.Prefetch.UsedBytes, "used")
	counter(descAhead, st.Prefetch.WastedBytes, "wasted")
	counter(descBadLists, st.Prefetch.BadLists)
	counter(descPeerBytes, st.Peers.FetchedBytes, "fetched")
	counter(descPeerBytes, st.Peers.ServedBytes, "served")
	counter(descPeerBad, st.Peers.BadBlocks)
	counter(descScrubBytes, st.Scrub.Bytes)
	counter(descScrubFound, st.Scrub.Damaged, "damaged")
	counter(descScrubFound, st.Scrub.Repaired, "repaired")
	counter(descScrubFound, st.Scrub.Lost, "lost")
	counter(descDedup, st.Cache.DedupHits)
	counter(descGone, st.Cache.LostBlocks)
	counter(descWALSyncs, st.WAL.Syncs)
	counter(descWALBytes, st.WAL.Bytes)
	counter(descWALCleaned, st.WAL.CleanedBytes)
	counter(descPanics, st.Panics)
	for _, name := range slices.Sorted(maps.Keys(st.Limits)) {
		emit(descUsed, prometheus.GaugeValue, float64(st.Limits[name].Used), name)
		emit(descLimit, prometheus.GaugeValue, float64(st.Limits[name].Limit), name)
	}
	ops := make([]string, 0, len(st.Latency))
	for op := range st.Latency {
		ops = append(ops, op)
	}
	slices.Sort(ops)
	for _, op := range ops {
		l := st.Latency[op]
		counter(descOps, l.Count, op)
		for _, q := range []struct {
			quantile string
			us       float64
		}{{"0.5", l.P50}, {"0.99", l.P99}, {"0.999", l.P999}, {"1", l.Max}} {
			emit(descLatency, prometheus.GaugeValue, q.us/1e6, op, q.quantile)
		}
	}
}
