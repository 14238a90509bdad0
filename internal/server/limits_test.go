package server

import (
	"net"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdtest"
)

// TestConnMetrics: use and limit of the connections, for each address.
func TestConnMetrics(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &guards{}
	_ = g.around(l).Close()
	defer func() { _ = l.Close() }()
	_ = g.around(l) // in the place of the first
	if n := apiConns(); n < leastAPI || n > mostAPI {
		t.Errorf("%d connections to the API", n)
	}
	s := &nbd.Server{Exporter: nbdtest.NewExports(), Options: nbd.Options{MaxConns: 7}}
	reg := prometheus.NewRegistry()
	reg.MustRegister(&connMetrics{nbd: s, api: g})
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			got[f.GetName()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			if labels := m.GetLabel(); strings.HasPrefix(f.GetName(), "glide_api") && labels[0].GetValue() != "tcp:"+l.Addr().String() {
				t.Errorf("%s is of %v", f.GetName(), labels)
			}
		}
	}
	if len(got) != 7 || got["glide_nbd_connections_limit"] != 7 || got["glide_api_connections_limit"] != float64(apiConns()) {
		t.Errorf("%v", got)
	}
	if u := (&connMetrics{nbd: s, api: g}).uses(); len(u) != 2 || u[0].Limit != 7 || u[1].Limit != uint64(apiConns()) {
		t.Errorf("%+v", u)
	}
}
