package api

import (
	"context"
	"net/http"
	"reflect"
	"time"
)

// lifeRoutes move a volume between memory, disk, store and hosts.
var lifeRoutes = []route{
	handle(http.MethodPost, "/v1/volumes/{name}/barrier", func(ctx context.Context, b Backend, p params, _ None) (Flush, error) {
		through, err := p.number("through")
		if err != nil {
			return Flush{}, err
		}
		return b.Barrier(ctx, p.name(), through)
	}, "through"),
	handle(http.MethodPost, "/v1/volumes/{name}/flush", func(ctx context.Context, b Backend, p params, _ None) (Flush, error) {
		return b.Flush(ctx, p.name())
	}),
	handle(http.MethodPost, "/v1/volumes/{name}/sleep", func(ctx context.Context, b Backend, p params, in SleepRequest) (Volume, error) {
		return b.Sleep(ctx, p.name(), in.Portable, in.Force)
	}),
	handle(http.MethodPost, "/v1/volumes/{name}/wake", func(ctx context.Context, b Backend, p params, in WakeRequest) (Volume, error) {
		return b.Wake(ctx, p.name(), in.Force, in.Expect)
	}),
	{
		method: http.MethodPost, path: "/v1/volumes/{name}/release", status: http.StatusOK,
		in: reflect.TypeFor[ReleaseRequest](), out: reflect.TypeFor[Volume](), serve: release,
	},
}

// release answers another host, which waits only so long. A request that comes
// late must have no effect, and that its connection was closed may be noticed
// too late; so the asker sends what it wants only when it is told that this is
// being read now (100 Continue), together with the time that it has left. That
// counts from before it was told: by whatever clocks, it ends here first.
func release(s *server, w http.ResponseWriter, r *http.Request) error {
	began := time.Now()
	var in ReleaseRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	ctx, done := told(w, r)
	if in.WithinMs > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, began.Add(time.Duration(min(in.WithinMs, longestRelease)*1e6)))
		defer cancel()
	}
	out, err := s.Release(ctx, r.PathValue("name"), in)
	done()
	if err != nil {
		return err
	}
	return encode(w, http.StatusOK, out)
}

// longestRelease bounds how long an asker may wait, ms.
const longestRelease = 3_600_000
