package api

import (
	"bytes"
	"cmp"
	"context"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/paraglide/glide/internal/errs"
)

// maxWait bounds how long a request for events may wait, ms.
const maxWait = 60_000

// number is a parameter that counts something; 0 if it is not there.
func (p params) number(key string) (uint64, error) {
	v := p.query(key)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, errs.New(errs.Invalid, "%s=%.60s is not a number", key, v)
	}
	return n, nil
}

// hostRoutes are the daemon itself, and the store behind it.
var hostRoutes = []route{
	handle(http.MethodGet, "/v1/host", func(ctx context.Context, b Backend, _ params, _ None) (Host, error) {
		return b.Host(ctx)
	}),
	handle(http.MethodGet, "/v1/doctor", func(ctx context.Context, b Backend, _ params, _ None) ([]Check, error) {
		checks, err := b.Doctor(ctx)
		return notNull(checks), err
	}),
	handle(http.MethodGet, "/v1/hosts", func(ctx context.Context, b Backend, _ params, _ None) ([]StoreHost, error) {
		hosts, err := b.Hosts(ctx)
		return notNull(hosts), err
	}),
	handle(http.MethodPost, "/v1/hosts/{name}/forget", func(ctx context.Context, b Backend, p params, r ForgetRequest) (Forgotten, error) {
		return b.ForgetHost(ctx, p.name(), r.Force)
	}),
	handle(http.MethodGet, "/v1/events", func(ctx context.Context, b Backend, p params, _ None) ([]Event, error) {
		after, err := p.number("after")
		if err != nil {
			return nil, err
		}
		wait, err := p.number("wait_ms")
		if err != nil {
			return nil, err
		}
		events, err := b.Events(ctx, after, time.Duration(min(wait, maxWait))*time.Millisecond)
		return notNull(events), cmp.Or(err, ended(ctx))
	}, "after", "wait_ms"),
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
