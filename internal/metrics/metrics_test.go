package metrics_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/api/apitest"
	"github.com/paraglide/glide/internal/metrics"
)

func TestMetrics(t *testing.T) {
	extra := prometheus.NewGauge(prometheus.GaugeOpts{Name: "glide_extra", Help: "Of the test."})
	b := &apitest.Backend{}
	h := metrics.Handler(b, extra)
	scrape := func() (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		return w.Code, w.Body.String()
	}
	if _, err := b.Create(t.Context(), api.CreateRequest{Name: "acme/vm1", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	_, body := scrape()
	for _, line := range []string{
		`glide_up 1`, `glide_extra 0`, `glide_volume_dirty_bytes{volume="acme/vm1"} 0`, `glide_volume_unpublished_seconds{volume="acme/vm1"} 0`,
		`glide_volume_exports{volume="acme/vm1"} 0`, `glide_volume_state{state="active",volume="acme/vm1"} 1`, `glide_volumes{state="active"} 1`,
		`glide_volumes{state="failed"} 0`, `glide_store_requests_total{kind="get"} 3`, `glide_store_bytes_total{direction="down"} 2000`,
		`glide_store_cause_requests_total{cause="flush",kind="put"} 3`, `glide_store_cause_bytes_total{cause="read",direction="down"} 5.24288e+06`,
		`glide_cache_hits_total 7`, `glide_wal_syncs_total 9`, `glide_nbd_requests_total{op="read"} 10`,
		`glide_nbd_request_latency_seconds{op="read",quantile="0.99"} 5e-05`, `glide_nbd_request_latency_seconds{op="read",quantile="1"} 0.0001005`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	if !strings.Contains(body, "go_goroutines") || !strings.Contains(body, "process_resident_memory_bytes") {
		t.Error("the process's own metrics are missing")
	}
	b.Fail("Stats", errors.New("broken"))
	if status, body := scrape(); status != 200 || !strings.Contains(body, "glide_up 0\n") {
		t.Errorf("%d; a backend that fails must show as glide_up 0", status)
	}
}
