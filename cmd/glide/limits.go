package main

import (
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
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
	limit := unix.Rlimit{Cur: usualLimits}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = usualLimits
	}
	return int(max(leastAPI, min(mostAPI, limit.Cur/apiShare)))
}

// guardAPI puts the limits of the API's connections around its listeners.
func (ls *listeners) guardAPI() {
	for i, l := range ls.api.open {
		if _, ok := l.(*api.Listener); !ok {
			ls.api.open[i] = api.Listen(l, api.ListenOptions{MaxConns: apiConns(), Log: ls.log})
		}
	}
}

// connMetrics are the metrics of connections: how many there are, may be, and were
// refused.
type connMetrics struct {
	nbd *nbd.Server
	api []net.Listener
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
	for _, l := range m.api {
		if g, ok := l.(*api.Listener); ok {
			open, limit, refused := g.Counts()
			address := addrOf(l).String()
			gauge(descAPIConns, float64(open), address)
			gauge(descAPILimit, float64(limit), address)
			counter(descAPIRefused, refused, address)
		}
	}
}
