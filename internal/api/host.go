package api

import (
	"bytes"
	"context"
	"net/http"
	"reflect"
)

// hostRoutes are the daemon itself, and the store behind it.
var hostRoutes = []route{
	handle(http.MethodGet, "/v1/host", func(ctx context.Context, b Backend, _ params, _ None) (Host, error) {
		return b.Host(ctx)
	}),
	handle(http.MethodGet, "/v1/doctor", func(ctx context.Context, b Backend, _ params, _ None) ([]Check, error) {
		checks, err := b.Doctor(ctx)
		return notNull(checks), err
	}),
	handle(http.MethodGet, "/v1/objects/{key...}", func(ctx context.Context, b Backend, p params, _ None) (Dump, error) {
		d := Dump{Key: p.r.PathValue("key")}
		var text bytes.Buffer
		if err := b.Dump(ctx, d.Key, &text); err != nil {
			if text.Len() == 0 {
				return d, err
			}
			d.Damage = err.Error() // of an object that is there, with what could be read of it
		}
		d.Text = text.String()
		return d, nil
	}),
	{
		method: http.MethodGet, path: "/v1/openapi.json", status: http.StatusOK,
		serve: func(_ *server, w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/json")
			_, err := w.Write(openAPI)
			return err
		},
	},
	{
		method: http.MethodGet, path: "/metrics", status: http.StatusOK,
		serve: func(s *server, w http.ResponseWriter, r *http.Request) error {
			s.metrics.ServeHTTP(w, r)
			return nil
		},
	},
	{
		method: http.MethodGet, path: "/healthz", status: http.StatusOK, open: true, out: reflect.TypeFor[Health](),
		serve: func(s *server, w http.ResponseWriter, r *http.Request) error {
			h, err := s.Host(r.Context())
			if err != nil {
				return err
			}
			return encode(w, http.StatusOK, Health{Status: "ok", Host: h.ID, Version: h.Version})
		},
	},
}
