// Package apitest has a Backend in memory, for tests of what speaks the API.
// It keeps volumes, not promises: nothing in it is durable or shared.
package apitest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/size"
)

const page = 4096

// Epoch is when all that a Backend makes was made.
var Epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// Backend is an api.Backend. The zero Backend is ready.
type Backend struct {
	mu      sync.Mutex
	volumes map[string]*volume // by the name as printed, snapshots as NAME@SNAPSHOT
	removed map[string]*volume // those that Restore brings back
	fail    map[string]error
	calls   []string
	ids     int
}

type volume struct {
	api.Volume
	pages map[uint64][]byte
	order []string // of snapshots
}

var _ api.Backend = (*Backend)(nil)

// Fail makes every later call of the method return err; nil ends that.
func (b *Backend) Fail(method string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail == nil {
		b.fail = map[string]error{}
	}
	b.fail[method] = err
}

// Calls lists the calls so far, with their arguments.
func (b *Backend) Calls() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.calls)
}

// Connect changes how many NBD connections the volume seems to have.
func (b *Backend) Connect(name string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.volumes[name].Exports += n
}

// enter notes a call, and locks; leave with b.mu.Unlock.
func (b *Backend) enter(method string, args ...any) error {
	b.mu.Lock()
	b.calls = append(b.calls, strings.TrimSpace(method+" "+fmt.Sprintln(args...)))
	return b.fail[method]
}

func (b *Backend) find(name string) (*volume, error) {
	name = strings.TrimPrefix(name, "default/")
	if v := b.volumes[name]; v != nil {
		return v, nil
	}
	return nil, errs.New(errs.NotFound, "no volume %s: `glide ls --all` lists them", name)
}

func (b *Backend) add(name string, bytes uint64) (*volume, error) {
	name = strings.TrimPrefix(name, "default/")
	if strings.ContainsAny(name, " @") || name == "" {
		return nil, errs.New(errs.Invalid, "%q is not a name for a volume", name)
	}
	if err := size.Check(bytes); err != nil {
		return nil, err
	}
	if b.volumes[name] != nil {
		return nil, errs.New(errs.Exists, "there is a volume %s already", name)
	}
	b.ids++
	tenant, _, ok := strings.Cut(name, "/")
	if !ok {
		tenant = ""
	}
	v := &volume{pages: map[uint64][]byte{}, Volume: api.Volume{
		Name: name, Tenant: tenant, ID: fmt.Sprintf("%032x", b.ids), Size: bytes, BlockSize: 128 << 10, State: "active",
		Durability: "local", RPOms: 5000, Owner: "host-1", CreatedAt: Epoch, Labels: map[string]string{}, DirtyBudget: 5 << 30,
	}}
	if b.volumes == nil {
		b.volumes = map[string]*volume{}
	}
	b.volumes[name] = v
	return v, nil
}

// Host implements api.Backend.
func (b *Backend) Host(context.Context) (api.Host, error) {
	err := b.enter("Host")
	defer b.mu.Unlock()
	return api.Host{
		ID: "host-1", Version: "test", Store: "mem://", Data: "/data", Advertise: "unix:/data/api.sock",
		NBD: []string{"unix:/data/nbd.sock"}, API: []string{"unix:/data/api.sock"}, Volumes: len(b.volumes),
	}, err
}

// Create implements api.Backend.
func (b *Backend) Create(_ context.Context, r api.CreateRequest) (api.Volume, error) {
	err := b.enter("Create", r.Name, r.Size, r.BlockSize, r.Durability, r.RPOms)
	defer b.mu.Unlock()
	if err != nil {
		return api.Volume{}, err
	}
	if r.Durability != "" && r.Durability != "local" {
		return api.Volume{}, errs.New(errs.Unsupported, "this release of glide does not do durability=%s yet", r.Durability)
	}
	v, err := b.add(r.Name, r.Size)
	if err != nil {
		return api.Volume{}, err
	}
	v.BlockSize = cmp.Or(r.BlockSize, v.BlockSize)
	return v.Volume, nil
}

// Import implements api.Backend. Nothing is changed unless src ends well.
func (b *Backend) Import(_ context.Context, name string, bytes uint64, src api.Source) (api.Import, error) {
	err := b.enter("Import", name, bytes)
	b.mu.Unlock()
	if err != nil {
		return api.Import{}, err
	}
	pages, n, err := readPages(src)
	if err != nil {
		return api.Import{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	out := api.Import{Name: name, Size: bytes, Generation: "1.1", BytesRead: n, ElapsedMs: 1}
	if v := b.volumes[name]; v != nil {
		if v.Size != bytes || !samePages(v.pages, pages) {
			return api.Import{}, errs.New(errs.Exists, "there is a volume %s already, with other content", name)
		}
		out.ID, out.Unchanged = v.ID, true
		return out, nil
	}
	v, err := b.add(name, bytes)
	if err != nil {
		return api.Import{}, err
	}
	v.pages, v.Generation, v.Epoch = pages, "1.1", 1
	out.ID, out.BlocksNew, out.BlocksFolded = v.ID, uint64(len(pages)), uint64(len(pages))
	return out, nil
}

func readPages(src api.Source) (pages map[uint64][]byte, n uint64, err error) {
	pages = map[uint64][]byte{}
	for {
		e, err := src.Next()
		if err == io.EOF {
			maps.DeleteFunc(pages, func(_ uint64, p []byte) bool { return bytes.Equal(p, make([]byte, page)) })
			return pages, n, nil
		}
		if err != nil {
			return nil, 0, err
		}
		n += uint64(len(e.Data))
		for len(e.Data) > 0 {
			p := pages[e.Off/page]
			if p == nil {
				p = make([]byte, page)
				pages[e.Off/page] = p
			}
			m := copy(p[e.Off%page:], e.Data)
			e.Off, e.Data = e.Off+uint64(m), e.Data[m:]
		}
	}
}

func samePages(a, b map[uint64][]byte) bool { return maps.EqualFunc(a, b, bytes.Equal) }

// Export implements api.Backend.
func (b *Backend) Export(_ context.Context, name string) (api.Exported, error) {
	err := b.enter("Export", name)
	defer b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	v, err := b.find(name)
	if err != nil {
		return nil, err
	}
	return &exported{v.Size, maps.Clone(v.pages), slices.Sorted(maps.Keys(v.pages)), b.fail["ReadAt"]}, nil
}

type exported struct {
	size   uint64
	pages  map[uint64][]byte
	sorted []uint64
	fail   error // of reads behind the first page
}

func (x *exported) Size() uint64 { return x.size }

func (x *exported) Close() {}

func (x *exported) ReadAt(_ context.Context, p []byte, off uint64) error {
	if x.fail != nil && off > 0 {
		return x.fail
	}
	for len(p) > 0 {
		n := min(len(p), int(page-off%page))
		clear(p[:n])
		if src := x.pages[off/page]; src != nil {
			copy(p[:n], src[off%page:])
		}
		p, off = p[n:], off+uint64(n)
	}
	return nil
}

func (x *exported) Extents(_ context.Context, off, length uint64, fn func(length uint64, hole bool) error) error {
	end := off + length
	i, _ := slices.BinarySearch(x.sorted, off/page)
	for off < end {
		from := end
		if i < len(x.sorted) {
			from = min(end, max(off, x.sorted[i]*page))
		}
		if from > off {
			if err := fn(from-off, true); err != nil {
				return err
			}
		}
		to := from
		for to < end && i < len(x.sorted) && x.sorted[i] == to/page {
			to = min(end, (x.sorted[i]+1)*page)
			i++
		}
		if to > from {
			if err := fn(to-from, false); err != nil {
				return err
			}
		}
		off = to
	}
	return nil
}
