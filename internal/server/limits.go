package server

import (
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/paraglide/glide/internal/limits"
	"github.com/paraglide/glide/internal/listener"
	"github.com/paraglide/glide/nbd"
)

// Shares of the files that the process may open. NBD connections get half
// (nbd.Options.MaxConns). Each address of the API gets a sixteenth, so that a
// full one leaves the operator's socket free. The rest is for the log, the
// metadata and the store.
const (
	apiShare    = 16
	leastAPI    = 16
	mostAPI     = 256
	usualLimits = 1024 // files, if the limit is unknown
)

// apiConns is how many connections an address of the API may have.
func apiConns() int {
	limit := limits.MaxFiles()
	if limit == 0 {
		limit = usualLimits
	}
	return int(max(leastAPI, min(mostAPI, limit/apiShare)))
}

// guards limits the API's connections by address. It may be used
// concurrently.
type guards struct {
	log *slog.Logger

	mu   sync.Mutex
	byAt map[string]*listener.Listener
}

// around limits a listener, which replaces an earlier one at the same address.
func (g *guards) around(l net.Listener) net.Listener {
	guard := listener.Listen(l, listener.Options{MaxConns: apiConns(), Log: g.log})
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.byAt == nil {
		g.byAt = map[string]*listener.Listener{}
	}
	g.byAt[addrOf(l).String()] = guard
	return guard
}

// each calls fn for every address, in order.
func (g *guards) each(fn func(address string, l *listener.Listener)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, at := range slices.Sorted(maps.Keys(g.byAt)) {
		fn(at, g.byAt[at])
	}
}

// connMetrics are the metrics of connections: open, limit and refused.
type connMetrics struct {
	nbd *nbd.Server
	api *guards
}

func connDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("glide_"+name, help, labels, nil)
}

var (
	descNBDConns   = connDesc("nbd_connections", "Open NBD connections.")
	descNBDLimit   = connDesc("nbd_connections_limit", "Limit of NBD connections.")
	descNBDRefused = connDesc("nbd_connections_refused_total", "NBD connections refused beyond the limit.")
	descNBDPanics  = connDesc("nbd_panics_total", "NBD requests that ended in a panic.")
	descAPIConns   = connDesc("api_connections", "Open connections to the API.", "address")
	descAPILimit   = connDesc("api_connections_limit", "Limit of connections to the API.", "address")
	descAPIRefused = connDesc("api_connections_refused_total", "Connections to the API refused beyond the limit.", "address")
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
	m.api.each(func(address string, l *listener.Listener) {
		open, limit, refused := l.Counts()
		gauge(descAPIConns, float64(open), address)
		gauge(descAPILimit, float64(limit), address)
		counter(descAPIRefused, refused, address)
	})
}

// uses returns the same numbers for doctor.
func (m *connMetrics) uses() []limits.Use {
	n := m.nbd.Counts()
	list := []limits.Use{{Name: "nbd_connections", Used: uint64(n.Connections), Limit: uint64(n.Limit), Fix: "disconnect guests, or raise the limit of open files (LimitNOFILE=, ulimit -n); NBD connections may use half of it"}}
	m.api.each(func(address string, l *listener.Listener) {
		open, limit, _ := l.Counts()
		list = append(list, limits.Use{Name: "api_connections at " + address, Used: uint64(open), Limit: uint64(limit), Fix: "find the clients that open so many connections; other addresses of the API are not affected"})
	})
	return list
}
