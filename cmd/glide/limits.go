package main

import (
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/limits"
	"github.com/paraglide/glide/nbd"
)

// Shares of the files that the process may open. NBD connections have a half
// (nbd.Options.MaxConns); each address of the API has a sixteenth of its own, so
// that a full one leaves the operator's socket free; the rest is the log's, the
// metadata's and the store's.
const (
	apiShare    = 16
	leastAPI    = 16
	mostAPI     = 256
	usualLimits = 1024 // files, where the limit is not known
)

// apiConns is how many connections an address of the API may have.
func apiConns() int {
	limit := limits.MaxFiles()
	if limit == 0 {
		limit = usualLimits
	}
	return int(max(leastAPI, min(mostAPI, limit/apiShare)))
}

// guards are the limits of the API's connections, by address. It may be used
// concurrently.
type guards struct {
	log *slog.Logger

	mu   sync.Mutex
	byAt map[string]*api.Listener
}

// around puts a limit around a listener, which takes the place of an earlier one at
// the same address.
func (g *guards) around(l net.Listener) net.Listener {
	guard := api.Listen(l, api.ListenOptions{MaxConns: apiConns(), Log: g.log})
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byAt == nil {
		g.byAt = map[string]*api.Listener{}
	}
	g.byAt[addrOf(l).String()] = guard
	return guard
}

// each calls fn for every address, in order.
func (g *guards) each(fn func(address string, l *api.Listener)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, at := range slices.Sorted(maps.Keys(g.byAt)) {
		fn(at, g.byAt[at])
	}
}

// connMetrics are the metrics of connections: how many there are, may be, and were
// refused.
type connMetrics struct {
	nbd *nbd.Server
	api *guards
}

func connDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("glide_"+name, help, labels, nil)
}

var (
	descNBDConns   = connDesc("nbd_connections", "Open NBD connections.")
	descNBDLimit   = connDesc("nbd_connections_limit", "How many NBD connections there may be.")
	descNBDRefused = connDesc("nbd_connections_refused_total", "NBD connections that were too many.")
	descNBDPanics  = connDesc("nbd_panics_total", "NBD requests that ended in a panic.")
	descAPIConns   = connDesc("api_connections", "Open connections to the API.", "address")
	descAPILimit   = connDesc("api_connections_limit", "How many connections to the API there may be.", "address")
	descAPIRefused = connDesc("api_connections_refused_total", "Connections to the API that were too many.", "address")
)

// Describe implements prometheus.Collector.
func (m *connMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descNBDConns, descNBDLimit, descNBDRefused, descNBDPanics, descAPIConns, descAPILimit, descAPIRefused} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *connMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	n := m.nbd.Counts()
	gauge(descNBDConns, float64(n.Connections))
	gauge(descNBDLimit, float64(n.Limit))
	counter(descNBDRefused, n.Refused)
	counter(descNBDPanics, n.Panics)
	m.api.each(func(address string, l *api.Listener) {
		open, limit, refused := l.Counts()
		gauge(descAPIConns, float64(open), address)
		gauge(descAPILimit, float64(limit), address)
		counter(descAPIRefused, refused, address)
	})
}

// uses is the same as doctor looks at it.
func (m *connMetrics) uses() []limits.Use {
	n := m.nbd.Counts()
	list := []limits.Use{{Name: "nbd_connections", Used: uint64(n.Connections), Limit: uint64(n.Limit), Fix: "disconnect guests, or raise the limit of open files (LimitNOFILE=, ulimit -n), of which they have a half"}}
	m.api.each(func(address string, l *api.Listener) {
		open, limit, _ := l.Counts()
		list = append(list, limits.Use{Name: "api_connections at " + address, Used: uint64(open), Limit: uint64(limit), Fix: "see who asks so much of the API; other addresses of it are not affected"})
	})
	return list
}
