package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
)

// Names are [tenant/]name, with @SNAPSHOT where a volume is only read.

func volume(name string, more ...string) string {
	return path(append([]string{"volumes", name}, more...)...)
}

// Host describes the daemon.
func (c *Client) Host(ctx context.Context) (Host, error) {
	return call[Host](ctx, c, http.MethodGet, path("host"), nil)
}

// Health asks whether the daemon serves.
func (c *Client) Health(ctx context.Context) (Health, error) {
	return call[Health](ctx, c, http.MethodGet, "/healthz", nil)
}

// Create creates an empty volume.
func (c *Client) Create(ctx context.Context, r CreateRequest) (Volume, error) {
	return call[Volume](ctx, c, http.MethodPost, path("volumes"), r)
}

// List lists the host's volumes; with all, every volume in the store.
func (c *Client) List(ctx context.Context, all bool) ([]Volume, error) {
	return call[[]Volume](ctx, c, http.MethodGet, path("volumes")+flags("all", onlyTrue(all)), nil)
}

// Show describes one volume.
func (c *Client) Show(ctx context.Context, name string) (Volume, error) {
	return call[Volume](ctx, c, http.MethodGet, volume(name), nil)
}

// Remove removes a volume or a snapshot.
func (c *Client) Remove(ctx context.Context, name string, force bool) error {
	_, err := call[api.None](ctx, c, http.MethodDelete, volume(name)+flags("force", onlyTrue(force)), nil)
	return err
}

// Rename gives a volume another name.
func (c *Client) Rename(ctx context.Context, name, to string) (Volume, error) {
	return call[Volume](ctx, c, http.MethodPost, volume(name, "rename"), api.RenameRequest{To: to})
}

// Resize grows a volume to a size in bytes.
func (c *Client) Resize(ctx context.Context, name string, size uint64) (Volume, error) {
	return call[Volume](ctx, c, http.MethodPost, volume(name, "resize"), api.ResizeRequest{Size: size})
}

// Set changes a volume's settings.
func (c *Client) Set(ctx context.Context, name string, s Settings) (Volume, error) {
	return call[Volume](ctx, c, http.MethodPatch, volume(name), s)
}

// Fork creates forks, all of one cut.
func (c *Client) Fork(ctx context.Context, r ForkRequest) ([]Fork, error) {
	return call[[]Fork](ctx, c, http.MethodPost, path("forks"), r)
}

// Snapshot makes a snapshot of a volume. expires is how long it is kept, such as 30d; "":
// until it is removed.
func (c *Client) Snapshot(ctx context.Context, name, snapshot, expires string) (Snapshot, error) {
	return call[Snapshot](ctx, c, http.MethodPost, volume(name, "snapshots"), api.SnapshotRequest{Name: snapshot, Expires: expires})
}

// Restore brings a removed volume back, as another name or, if that is "", under its own.
func (c *Client) Restore(ctx context.Context, name, as string) (Volume, error) {
	return call[Volume](ctx, c, http.MethodPost, volume(name, "restore"), api.RestoreRequest{As: as})
}

// Removed lists the removed volumes of the store that can be restored.
func (c *Client) Removed(ctx context.Context) ([]Removed, error) {
	return call[[]Removed](ctx, c, http.MethodGet, path("removed"), nil)
}

// Snapshots lists a volume's snapshots.
func (c *Client) Snapshots(ctx context.Context, name string) ([]Snapshot, error) {
	return call[[]Snapshot](ctx, c, http.MethodGet, volume(name, "snapshots"), nil)
}

// Rollback returns a volume to a snapshot or a generation.
func (c *Client) Rollback(ctx context.Context, name, to string, force bool) (Volume, error) {
	return call[Volume](ctx, c, http.MethodPost, volume(name, "rollback"), api.RollbackRequest{To: to, Force: force})
}

// Flush returns when the store holds everything acknowledged before the call.
func (c *Client) Flush(ctx context.Context, name string) (Flush, error) {
	return call[Flush](ctx, c, http.MethodPost, volume(name, "flush"), nil)
}

// Sleep puts a volume to sleep. With portable, any host can wake it.
func (c *Client) Sleep(ctx context.Context, name string, portable, force bool) (Volume, error) {
	return call[Volume](ctx, c, http.MethodPost, volume(name, "sleep"), api.SleepRequest{Portable: portable, Force: force})
}

// Wake makes a volume active on this host. If expect is not empty, a state older
// than that generation is an error.
func (c *Client) Wake(ctx context.Context, name string, force bool, expect string) (Volume, error) {
	return call[Volume](ctx, c, http.MethodPost, volume(name, "wake"), api.WakeRequest{Force: force, Expect: expect})
}

// Release asks the daemon, for another host, to flush or release a volume. When ctx
// ends, the daemon does nothing more for the request.
func (c *Client) Release(ctx context.Context, name string, r ReleaseRequest) (Volume, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+volume(name, "release"), &question{ctx: ctx, r: r})
	if err != nil {
		return Volume{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	// A daemon that hangs longer than ctx must not execute the request later.
	req.Header.Set("Expect", "100-continue")
	if report := api.Progress(ctx); report != nil {
		req = withProgress(req, report)
	}
	resp, err := c.do(req)
	if err != nil {
		return Volume{}, err
	}
	return answer[Volume](c, resp)
}

// question is a request for a release. It is encoded when the daemon is about to read
// it, with the time that is left then.
type question struct {
	ctx   context.Context
	r     ReleaseRequest
	words io.Reader
}

// Read implements io.Reader.
func (q *question) Read(p []byte) (int, error) {
	if q.words == nil {
		if at, ok := q.ctx.Deadline(); ok {
			left := time.Until(at)
			if left <= 0 {
				return 0, context.DeadlineExceeded
			}
			if ms := float64(left) / float64(time.Millisecond); q.r.WithinMs == 0 || ms < q.r.WithinMs {
				q.r.WithinMs = ms
			}
		}
		b, err := json.Marshal(q.r)
		if err != nil {
			return 0, err
		}
		q.words = bytes.NewReader(b)
	}
	return q.words.Read(p)
}

// Attach attaches a volume as a block device of the daemon's machine.
func (c *Client) Attach(ctx context.Context, name string, r AttachRequest) (Attachment, error) {
	return call[Attachment](ctx, c, http.MethodPost, volume(name, "attach"), r)
}

// Detach removes a volume's block device.
func (c *Client) Detach(ctx context.Context, r DetachRequest) (Attachment, error) {
	return call[Attachment](ctx, c, http.MethodPost, path("detach"), r)
}

// LogPage is how many commits Log requests at a time.
const LogPage = 256

// Log calls fn with a volume's commits, newest first, page by page: count of them, or
// all if count is 0. It requests a page only after fn has taken the last one. An error
// of fn ends it and is returned.
func (c *Client) Log(ctx context.Context, name string, count int, fn func([]Commit) error) error {
	before := ""
	for left := count; ; {
		n := LogPage
		if count > 0 {
			n = min(n, left)
		}
		page, err := call[[]Commit](ctx, c, http.MethodGet, volume(name, "log")+flags("before", before, "count", strconv.Itoa(n)), nil)
		if err != nil {
			return err
		}
		if err := fn(page); err != nil {
			return err
		}
		if left -= len(page); len(page) < n || count > 0 && left <= 0 {
			return nil
		}
		before = page[len(page)-1].Generation
	}
}

// Diff compares two volumes.
func (c *Client) Diff(ctx context.Context, a, b string) (Diff, error) {
	return call[Diff](ctx, c, http.MethodGet, path("diff")+flags("a", a, "b", b), nil)
}

// Cost returns the requests to the store by cause, those made for a volume, or all if name
// is "".
func (c *Client) Cost(ctx context.Context, name string) (Cost, error) {
	return call[Cost](ctx, c, http.MethodGet, ofOne(name, "cost"), nil)
}

// Usage returns the space that a volume uses, or all of the host's volumes if name is
// "".
func (c *Client) Usage(ctx context.Context, name string) (Usage, error) {
	return call[Usage](ctx, c, http.MethodGet, ofOne(name, "usage"), nil)
}

// Stats returns the counters of a volume, or of the host if name is "".
func (c *Client) Stats(ctx context.Context, name string) (Stats, error) {
	return call[Stats](ctx, c, http.MethodGet, ofOne(name, "stats"), nil)
}

func ofOne(name, what string) string {
	if name == "" {
		return path(what)
	}
	return volume(name, what)
}

// Verify checks a volume's blocks. With cold, it reads them from the store.
func (c *Client) Verify(ctx context.Context, name string, cold bool) (Verify, error) {
	return call[Verify](ctx, c, http.MethodPost, volume(name, "verify"), api.VerifyRequest{Cold: cold})
}

// Hydrate brings every block of a volume to the daemon's host, at no more than rate bytes
// of the store a second; 0: no limit.
func (c *Client) Hydrate(ctx context.Context, name string, rate uint64) (Hydrate, error) {
	return call[Hydrate](ctx, c, http.MethodPost, volume(name, "hydrate"), api.HydrateRequest{Rate: rate})
}

// URI is the NBD URI of a volume.
func (c *Client) URI(ctx context.Context, name string) (string, error) {
	u, err := call[api.URI](ctx, c, http.MethodGet, volume(name, "uri"), nil)
	return u.URI, err
}

// Doctor makes the daemon check itself, its store and its data directory.
func (c *Client) Doctor(ctx context.Context) ([]Check, error) {
	return call[[]Check](ctx, c, http.MethodGet, path("doctor"), nil)
}

// Hosts lists the hosts that the store knows.
func (c *Client) Hosts(ctx context.Context) ([]StoreHost, error) {
	return call[[]StoreHost](ctx, c, http.MethodGet, path("hosts"), nil)
}

// ForgetHost releases what the store keeps for a host that will not come back.
func (c *Client) ForgetHost(ctx context.Context, id string, force bool) (Forgotten, error) {
	return call[Forgotten](ctx, c, http.MethodPost, path("hosts", id, "forget"), api.ForgetRequest{Force: force})
}

// Collect goes on with a round of garbage collection in the store, or begins one.
func (c *Client) Collect(ctx context.Context, r CollectRequest) (Collection, error) {
	return call[Collection](ctx, c, http.MethodPost, path("gc"), r)
}

// Scrub checks what the host and the store hold, or one of them, and repairs it.
func (c *Client) Scrub(ctx context.Context, storeOnly, localOnly bool) (Scrub, error) {
	return call[Scrub](ctx, c, http.MethodPost, path("scrub"), api.ScrubRequest{StoreOnly: storeOnly, LocalOnly: localOnly})
}

// CollectPlan lists what the open rounds have flagged.
func (c *Client) CollectPlan(ctx context.Context) ([]Planned, error) {
	return call[[]Planned](ctx, c, http.MethodGet, path("gc", "plan"), nil)
}

// CollectStatus describes the newest round.
func (c *Client) CollectStatus(ctx context.Context) (CollectStatus, error) {
	return call[CollectStatus](ctx, c, http.MethodGet, path("gc", "status"), nil)
}

// Undelete takes flagged objects back.
func (c *Client) Undelete(ctx context.Context, keys []string) error {
	_, err := call[api.None](ctx, c, http.MethodPost, path("gc", "undelete"), api.UndeleteRequest{Keys: keys})
	return err
}

// Events returns the events after the one with the given number. If there are none,
// it waits for the given time.
func (c *Client) Events(ctx context.Context, after uint64, wait time.Duration) ([]Event, error) {
	q := flags("after", strconv.FormatUint(after, 10), "wait_ms", strconv.FormatInt(wait.Milliseconds(), 10))
	return call[[]Event](ctx, c, http.MethodGet, path("events")+q, nil)
}

// Barrier returns when the store holds a volume through the write with the
// given number, as Volume.Sequence counts them.
func (c *Client) Barrier(ctx context.Context, name string, through uint64) (Flush, error) {
	return call[Flush](ctx, c, http.MethodPost, volume(name, "barrier")+flags("through", strconv.FormatUint(through, 10)), nil)
}

// Dump decodes an object of the store.
func (c *Client) Dump(ctx context.Context, key string) (Dump, error) {
	return call[Dump](ctx, c, http.MethodGet, path(append([]string{"objects"}, strings.Split(key, "/")...)...), nil)
}

// NewToken makes a token. Its text is in the answer, and nowhere else.
func (c *Client) NewToken(ctx context.Context, r TokenRequest) (NewToken, error) {
	return call[NewToken](ctx, c, http.MethodPost, path("tokens"), r)
}

// Tokens lists the tokens, without their texts.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return call[[]Token](ctx, c, http.MethodGet, path("tokens"), nil)
}

// CreateTenant makes a tenant with keys.
func (c *Client) CreateTenant(ctx context.Context, r TenantRequest) (Tenant, error) {
	return call[Tenant](ctx, c, http.MethodPost, path("tenants"), r)
}

// Tenants lists the tenants of the store and of the host, by name.
func (c *Client) Tenants(ctx context.Context) ([]Tenant, error) {
	return call[[]Tenant](ctx, c, http.MethodGet, path("tenants"), nil)
}

// Tenant shows a tenant.
func (c *Client) Tenant(ctx context.Context, name string) (Tenant, error) {
	return call[Tenant](ctx, c, http.MethodGet, path("tenants", name), nil)
}

// EraseTenant deletes the keys of a tenant. The answer names the providers whose keys open
// copies of them.
func (c *Client) EraseTenant(ctx context.Context, name string) (Tenant, error) {
	return call[Tenant](ctx, c, http.MethodDelete, path("tenants", name), nil)
}

// CheckTenant tries everything that should open a tenant's keys.
func (c *Client) CheckTenant(ctx context.Context, name string) ([]KeyCheck, error) {
	return call[[]KeyCheck](ctx, c, http.MethodGet, path("tenants", name, "check"), nil)
}

// RewrapTenant wraps a tenant's keys for other providers.
func (c *Client) RewrapTenant(ctx context.Context, name string, r RewrapRequest) (Tenant, error) {
	return call[Tenant](ctx, c, http.MethodPost, path("tenants", name, "rewrap"), r)
}

// SealTenant gives a plain tenant keys, and moves what it has stored.
func (c *Client) SealTenant(ctx context.Context, name string, r SealRequest) (Sealing, error) {
	return call[Sealing](ctx, c, http.MethodPost, path("tenants", name, "seal"), r)
}

// RotateTenant begins a new root of a tenant's keys, and with conv another secret for ids.
func (c *Client) RotateTenant(ctx context.Context, name string, conv bool) (Tenant, error) {
	return call[Tenant](ctx, c, http.MethodPost, path("tenants", name, "rotate"), api.RotateRequest{Conv: conv})
}

// RekeyTenant brings what a tenant has in the store under its current root, at a rate in
// bytes a second (0: no limit), and retires the roots that nothing is sealed with any more.
func (c *Client) RekeyTenant(ctx context.Context, name string, rate uint64) (Rekey, error) {
	return call[Rekey](ctx, c, http.MethodPost, path("tenants", name, "rekey"), api.RekeyRequest{Rate: rate})
}

// RevokeToken makes a token worthless, at once.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := call[api.None](ctx, c, http.MethodDelete, path("tokens", id), nil)
	return err
}
