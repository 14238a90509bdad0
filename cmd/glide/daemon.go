package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/config"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/internal/problem"
	"github.com/paraglide/glide/nbd"
)

const (
	// grace is how long requests may take to finish once the daemon is to stop.
	grace = 20 * time.Second
	// closeTime bounds what the host does of its own at the end: the log is
	// synced first, so nothing depends on it.
	closeTime = 30 * time.Second
)

// gcPercent is how much garbage the daemon lets gather, as a share of what it
// uses: a half, not Go's whole. What it uses is caches, which hold no pointers
// and cost a collection little, and requests leave hardly any garbage; so what
// --memory says is nearer to what the machine gives. GOGC overrides it.
const gcPercent = 50

// serve runs the daemon until ctx ends.
func (a *app) serve(ctx context.Context, c *config.Config) error {
	log := newLogger(a.err, c)
	raiseLimits(log)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	token, err := readToken(c.TokenFile)
	if err != nil {
		return err
	}
	tlsMode, tlsConfig, err := nbdTLS(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return problem.New(problem.Invalid, "the data directory cannot be made: %w", err)
	}
	ls, err := openListeners(c)
	if err != nil {
		return err
	}
	defer ls.close()
	counter := &objstore.Counter{}
	store, err := openStore(ctx, c, counter, log)
	if err != nil {
		return err
	}
	cfg := host.Config{
		Data: c.Data, Store: store, StoreURL: c.Store, Counter: counter, Version: version,
		Advertise: c.Advertise, NBD: texts(ls.nbd.addrs), API: texts(ls.api.addrs), NBDTLS: tlsMode == nbd.TLSRequire,
		Memory: c.Memory, Cache: c.Cache, WALLimit: c.WALLimit, DirtyBudget: c.DirtyBudget,
		Compression: c.Compression, PackBlocks: c.PackBlocks, Retention: c.Retention, Log: log,
		Dial: func(addr string) host.Peer { return dialPeer(addr, token) },
	}
	if cfg.Advertise == "" {
		if cfg.Advertise = cfg.API[0]; ls.api.addrs[0].Any() {
			log.Warn("other hosts cannot find this one by its API's address: set --advertise", "api", cfg.Advertise)
		}
	}
	h, err := host.Open(ctx, cfg)
	if err != nil {
		return err
	}
	err = ls.openSockets() // now that no other daemon has the directory
	if err == nil {
		err = a.run(ctx, h, ls, &running{
			token: token, log: log,
			nbd: &nbd.Server{Exporter: h.Exports(), Options: nbd.Options{TLS: tlsMode, TLSConfig: tlsConfig, Logger: log}},
		}, cfg)
	}
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	return errors.Join(err, h.Close(cctx))
}

// running is what serves while the daemon does.
type running struct {
	token string
	log   *slog.Logger
	nbd   *nbd.Server
	api   []*http.Server
	stop  context.CancelCauseFunc // ends the requests of the API
}

// patient gives each request one patience with the store.
func patient(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(objstore.WithPatience(r.Context())))
	})
}

// run serves until ctx ends or a listener fails.
func (a *app) run(ctx context.Context, h *host.Host, ls *listeners, r *running, cfg host.Config) error {
	failed := make(chan error, len(ls.api.open)+len(ls.nbd.open))
	base, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	r.stop = stop
	var wg sync.WaitGroup
	handlers := map[bool]http.Handler{ // by whether the network is between us and the client
		false: patient(api.Handler(h, api.Options{Log: r.log})),
		true:  patient(api.Handler(h, api.Options{Log: r.log, Token: r.token})),
	}
	for _, l := range ls.api.open {
		s := &http.Server{
			Handler:           handlers[l.Addr().Network() == "tcp"],
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			BaseContext:       func(net.Listener) context.Context { return base },
			ErrorLog:          slog.NewLogLogger(r.log.Handler(), slog.LevelDebug),
		}
		r.api = append(r.api, s)
		wg.Go(func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("the API at %s: %w", l.Addr(), err)
			}
		})
	}
	for _, l := range ls.nbd.open {
		wg.Go(func() {
			if err := r.nbd.Serve(base, l); err != nil {
				failed <- fmt.Errorf("NBD at %s: %w", l.Addr(), err)
			}
		})
	}
	r.log.Info("serving", "version", version, "host", h.ID(), "data", cfg.Data, "store", cfg.StoreURL, "api", cfg.API, "nbd", cfg.NBD, "advertise", cfg.Advertise)
	if err := say(a.out, "glide: ready api=%s nbd=%s host=%s", strings.Join(cfg.API, ","), strings.Join(cfg.NBD, ","), h.ID()); err != nil {
		r.log.Warn("nobody reads the ready line", "error", err)
	}
	defer r.notify()()

	var err error
	select {
	case <-ctx.Done():
		r.log.Info("stopping")
	case err = <-failed:
		r.log.Error("stopping: a listener failed", "error", err)
	}
	r.shutdown()
	wg.Wait()
	return err
}

// shutdown lets requests finish, for a while, and then ends them.
func (r *running) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.nbd.Shutdown(ctx); err != nil {
			r.log.Warn("NBD requests did not finish in time", "error", err)
		}
	})
	for _, s := range r.api {
		wg.Go(func() {
			if err := s.Shutdown(ctx); err == nil {
				return
			}
			r.stop(problem.New(problem.Unavailable, "the daemon is stopping: ask again when it runs"))
			last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if err := s.Shutdown(last); err != nil {
				r.log.Warn("requests of the API did not finish in time", "error", s.Close())
			}
		})
	}
	wg.Wait()
	r.stop(context.Canceled)
}

// notify tells systemd, if there is one, that the daemon serves, and that it
// still does; what it returns tells that it stops.
func (r *running) notify() (stop func()) {
	tell := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			r.log.Warn("systemd was not notified", "error", err)
		}
	}
	tell(daemon.SdNotifyReady)
	done := make(chan struct{})
	if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
		go func() {
			t := time.NewTicker(every / 2)
			defer t.Stop()
			for {
				select {
				case <-t.C:
					tell(daemon.SdNotifyWatchdog)
				case <-done:
					return
				}
			}
		}()
	}
	return func() { close(done); tell(daemon.SdNotifyStopping) }
}

func newLogger(w io.Writer, c *config.Config) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// wantFiles is how many files the daemon would like to have open: segments,
// slabs, and a socket for every connection.
const wantFiles = 1 << 20

// raiseLimits raises the limit of open files as far as it may. The Go runtime
// raises the soft limit up to the hard one; root can raise that too.
func raiseLimits(log *slog.Logger) {
	want := unix.Rlimit{Cur: wantFiles, Max: wantFiles}
	var have unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err != nil {
		return
	}
	if have.Cur < want.Cur && unix.Setrlimit(unix.RLIMIT_NOFILE, &want) != nil && have.Cur < have.Max {
		have.Cur = have.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &have) // at the worst it stays as it is
	}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have); err == nil && have.Cur < 4096 {
		log.Warn("few files may be open at once: raise the limit (LimitNOFILE=, ulimit -n)", "limit", have.Cur)
	}
}

// dialPeer is another host, at the address that it advertises.
func dialPeer(addr, token string) host.Peer {
	c, err := client.New(addr, client.Options{Token: token})
	if err != nil {
		return noPeer{err}
	}
	return oncePeer{c}
}

// oncePeer is a peer that is asked once: no connection is kept to it.
type oncePeer struct{ c *client.Client }

// Release implements host.Peer.
func (p oncePeer) Release(ctx context.Context, name string, r api.ReleaseRequest) (api.Volume, error) {
	defer p.c.Close()
	return p.c.Release(ctx, name, r)
}

// Host implements host.Peer.
func (p oncePeer) Host(ctx context.Context) (api.Host, error) {
	defer p.c.Close()
	return p.c.Host(ctx)
}

// noPeer is a peer whose address makes no sense.
type noPeer struct{ err error }

// Release implements host.Peer.
func (p noPeer) Release(context.Context, string, api.ReleaseRequest) (api.Volume, error) {
	return api.Volume{}, problem.New(problem.Unavailable, "the owner's address: %w", p.err)
}

// Host implements host.Peer.
func (p noPeer) Host(context.Context) (api.Host, error) {
	return api.Host{}, problem.New(problem.Unavailable, "the owner's address: %w", p.err)
}
