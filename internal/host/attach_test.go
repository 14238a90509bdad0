package host

import (
	"bytes"
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/export"
	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// fakeKernel is a Kernel that keeps its devices in this process.
type fakeKernel struct {
	mu      sync.Mutex
	devices map[int]*fakeDevice
	missing error          // why there can be no devices
	users   map[int]string // processes that have devices open
}

type fakeDevice struct {
	identity   string
	size       uint64
	readOnly   bool
	connection int // number of connections so far
	nc         net.Conn
	c          *nbdclient.Client
}

func newFakeKernel() *fakeKernel {
	return &fakeKernel{devices: map[int]*fakeDevice{}, users: map[int]string{}}
}

func (k *fakeKernel) Prepare() {}

func (k *fakeKernel) Check() (string, error) { return "it is all made up", k.missing }

func (k *fakeKernel) Connected() map[int]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := map[int]string{}
	for i, d := range k.devices {
		out[i] = d.identity
	}
	return out
}

func (k *fakeKernel) Connect(c kernelnbd.Config, sock *os.File) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if c.Index == kernelnbd.AnyDevice {
		for c.Index = 0; k.devices[c.Index] != nil; c.Index++ {
		}
	}
	if k.devices[c.Index] != nil {
		return 0, errs.New(errs.Busy, "%s is in use", kernelnbd.Path(c.Index))
	}
	d := &fakeDevice{identity: c.Backend, readOnly: c.Flags&2 != 0}
	k.devices[c.Index] = d
	return c.Index, d.take(c, sock)
}

func (d *fakeDevice) take(c kernelnbd.Config, sock *os.File) (err error) {
	if d.nc, err = net.FileConn(sock); err != nil {
		return err
	}
	d.size = c.Size
	d.c = nbdclient.Resume(d.nc, nbdclient.Info{Size: c.Size, Flags: c.Flags})
	d.connection++
	return nil
}

func (k *fakeKernel) Reconnect(c kernelnbd.Config, sock *os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devices[c.Index]
	if d == nil || d.identity != c.Backend {
		return unix.EINVAL
	}
	return d.take(c, sock)
}

func (k *fakeKernel) Resize(c kernelnbd.Config) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.devices[c.Index].size = c.Size
	return nil
}

func (k *fakeKernel) Disconnect(index int) error {
	k.mu.Lock()
	d := k.devices[index]
	delete(k.devices, index)
	k.mu.Unlock()
	if d != nil {
		_ = d.c.Close()
	}
	return nil
}

func (k *fakeKernel) Hold(_ context.Context, index int) (func(), error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if who := k.users[index]; who != "" {
		return nil, errs.New(errs.Busy, "%s is in use by %s", kernelnbd.Path(index), who)
	}
	return func() {}, k.devices[index].c.Flush()
}

// device waits until the device with this number has had this many connections, and
// returns it.
func (k *fakeKernel) device(t *testing.T, index, connections int) *fakeDevice {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		k.mu.Lock()
		d := k.devices[index]
		if d != nil && d.connection >= connections {
			c := *d
			k.mu.Unlock()
			return &c
		}
		k.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatalf("device %d has not had %d connections: %+v", index, connections, d)
		}
	}
}

func attachBed(t *testing.T) (*bed, *fakeKernel, func() *Host) {
	b, k, dir := newBed(t), newFakeKernel(), t.TempDir()
	return b, k, func() *Host {
		t.Helper()
		h := must[*Host](t)(Open(t.Context(), Config{
			Data: dir, Store: b.store, Kernel: k, Cache: Share{Bytes: 16 << 20}, WALLimit: Share{Bytes: 64 << 20},
		}))
		t.Cleanup(func() { _ = h.Close(context.Background()) })
		return h
	}
}

func create(t *testing.T, h *Host, name string, size uint64) {
	t.Helper()
	must[api.Volume](t)(h.Create(t.Context(), api.CreateRequest{Name: name, Size: size}))
}

// TestDevicesAreReclaimed: the devices that a host attached exist again when the host
// runs again, even if it had no time to record them. Its new process serves them.
func TestDevicesAreReclaimed(t *testing.T) {
	_, k, open := attachBed(t)
	h := open()
	create(t, h, "a", 8<<20)
	create(t, h, "b", 8<<20)
	a := must[api.Attachment](t)(h.Attach(t.Context(), "a", api.AttachRequest{TimeoutMs: 5000}))
	if a.Device != "/dev/nbd0" || a.Size != 8<<20 || a.TimeoutMs != 5000 || a.DeadTimeoutMs != 600_000 || a.ReadOnly {
		t.Errorf("attached %+v", a)
	}
	must[api.Attachment](t)(h.Attach(t.Context(), "b", api.AttachRequest{Device: "/dev/nbd7"}))
	before := random(1, 100_000)
	if err := k.device(t, 0, 1).c.Write(before, 4096, 0); err != nil {
		t.Fatal(err)
	}
	if err := h.disks.DB.SetFact(export.AttachmentsFact, nil); err != nil { // as if it had crashed before it could record them
		t.Fatal(err)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	h = open()
	after := random(2, 70_000)
	d := k.device(t, 0, 2)
	if err := d.c.Write(after, 50_000, 0); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(before))
	if err := d.c.Read(got, 4096); err != nil || !bytes.Equal(got[:50_000-4096], before[:50_000-4096]) || !bytes.Equal(got[50_000-4096:], after[:len(got)-50_000+4096]) {
		t.Errorf("the device holds something else (%v)", err)
	}
	k.device(t, 7, 2)
	if v := must[api.Volume](t)(h.Show(t.Context(), "b")); v.Device != "/dev/nbd7" || v.Exports != 1 {
		t.Errorf("b is %+v", v)
	}
	v := must[api.Attachment](t)(h.Detach(t.Context(), api.DetachRequest{Device: "/dev/nbd7"}))
	if v.Name != "b" {
		t.Errorf("detached %+v", v)
	}
	if err := h.Remove(t.Context(), "b", false); err != nil { // no connection counts any more
		t.Error(err)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	_ = k.Disconnect(0) // the machine was rebooted
	h = open()
	if v := must[api.Volume](t)(h.Show(t.Context(), "a")); v.Device != "" {
		t.Errorf("a is %+v", v)
	}
	if recs := must[[]export.AttachRecord](t)(h.attachments.Records()); len(recs) != 0 {
		t.Errorf("records %+v", recs)
	}
}

// TestDeviceWaitsForItsLastWrites: the kernel drops a connection whose requests take too
// long. It gets another only when the requests in progress are done. Otherwise an old
// write could be applied after a new one.
func TestDeviceWaitsForItsLastWrites(t *testing.T) {
	_, k, open := attachBed(t)
	h := open()
	create(t, h, "a", 8<<20)
	must[api.Attachment](t)(h.Attach(t.Context(), "a", api.AttachRequest{}))
	d := must[*disk.Disk](t)(h.disks.Local("a", false))
	d.Limiter.Set(volume.Limits{Bandwidth: 5 << 19}, time.Now) // the next request waits 0.4 s for the first MiB
	dev := k.device(t, 0, 1)
	if err := dev.c.Write(make([]byte, 1<<20), 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	old := random(1, 500_000)
	go func() { _ = dev.c.Write(old, 0, 0) }()
	time.Sleep(100 * time.Millisecond)
	_ = dev.nc.Close()
	dev = k.device(t, 0, 2)
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("connected again after %v, while a write was under way", took)
	}
	d.Limiter.Set(volume.Limits{Bandwidth: 0}, time.Now)
	got := make([]byte, len(old))
	if err := dev.c.Read(got, 0); err != nil || !bytes.Equal(got, old) {
		t.Errorf("the old write is not there (%v)", err)
	}
}

// TestDetach: a device in use stays, unless it is forced or its volume is removed.
func TestDetach(t *testing.T) {
	_, k, open := attachBed(t)
	h := open()
	ctx := t.Context()
	for _, name := range []string{"a", "b", "c"} {
		create(t, h, name, 8<<20)
	}
	must[api.Snapshot](t)(h.Snapshot(ctx, "a", "s", ""))
	must[api.Attachment](t)(h.Attach(ctx, "a", api.AttachRequest{}))
	if s := must[api.Attachment](t)(h.Attach(ctx, "a@s", api.AttachRequest{})); !s.ReadOnly || s.Name != "a@s" || !k.device(t, 1, 1).readOnly {
		t.Errorf("a snapshot is attached as %+v", s)
	}
	must[api.Volume](t)(h.Resize(ctx, "a", 16<<20))
	if d := k.device(t, 0, 1); d.size != 16<<20 {
		t.Errorf("the device has %d bytes", d.size)
	}
	k.users[0] = "firecracker"
	_, err := h.Detach(ctx, api.DetachRequest{Name: "a"})
	wantKind(t, err, errs.Busy)
	_, err = h.Sleep(ctx, "a", false, false)
	wantKind(t, err, errs.Busy)
	if !strings.Contains(err.Error(), "/dev/nbd0") || !strings.Contains(err.Error(), "glide detach") {
		t.Errorf("sleep says %v", err)
	}
	must[api.Attachment](t)(h.Detach(ctx, api.DetachRequest{Name: "a", Force: true}))
	must[api.Attachment](t)(h.Detach(ctx, api.DetachRequest{Name: "a@s"}))
	for _, r := range []api.DetachRequest{{Name: "a"}, {Device: "/dev/nbd5"}, {Name: "none"}} {
		_, err := h.Detach(ctx, r)
		wantKind(t, err, errs.NotFound)
	}

	must[api.Attachment](t)(h.Attach(ctx, "b", api.AttachRequest{}))
	must[api.Attachment](t)(h.Attach(ctx, "c", api.AttachRequest{}))
	must[api.Volume](t)(h.Sleep(ctx, "b", false, true))
	if err := h.Remove(ctx, "c", true); err != nil {
		t.Fatal(err)
	}
	if len(k.Connected()) != 0 {
		t.Errorf("left: %v", k.Connected())
	}
	if v := must[api.Volume](t)(h.Show(ctx, "b")); v.State != "asleep" || v.Device != "" {
		t.Errorf("b is %+v", v)
	}

	// Attaching wakes the volume. Then another program disconnects the device.
	must[api.Attachment](t)(h.Attach(ctx, "b", api.AttachRequest{}))
	_ = k.Disconnect(0)
	for h.attachments.Device(must[*disk.Disk](t)(h.disks.Local("b", false)).ID) != "" {
		time.Sleep(time.Millisecond)
	}
}

func TestAttachRefuses(t *testing.T) {
	_, k, open := attachBed(t)
	h := open()
	create(t, h, "a", 8<<20)
	create(t, h, "b", 8<<20)
	refuse := func(name string, r api.AttachRequest, kind errs.Kind, words string) {
		t.Helper()
		_, err := h.Attach(t.Context(), name, r)
		wantKind(t, err, kind)
		if !strings.Contains(err.Error(), words) {
			t.Errorf("it says %v, without %q", err, words)
		}
	}
	refuse("none", api.AttachRequest{}, errs.NotFound, "none")
	refuse("a", api.AttachRequest{Device: "/dev/sda"}, errs.Invalid, "/dev/nbd0")
	refuse("a", api.AttachRequest{Device: "/dev/nbd01"}, errs.Invalid, "/dev/nbd0")
	refuse("a", api.AttachRequest{TimeoutMs: 10}, errs.Invalid, "timeout")
	refuse("a", api.AttachRequest{DeadTimeoutMs: -1}, errs.Invalid, "dead-timeout")
	must[api.Attachment](t)(h.Attach(t.Context(), "b", api.AttachRequest{Device: "/dev/nbd3"}))
	refuse("a", api.AttachRequest{Device: "/dev/nbd3"}, errs.Busy, "/dev/nbd3")
	refuse("b", api.AttachRequest{}, errs.Exists, "/dev/nbd3")
	k.missing = errs.New(errs.Unsupported, "modprobe nbd")
	refuse("a", api.AttachRequest{}, errs.Unsupported, "modprobe nbd")
	if v := must[api.Volume](t)(h.Show(t.Context(), "a")); v.Device != "" || v.Exports != 0 {
		t.Errorf("a is %+v", v)
	}
}

// TestAttachRace: of many callers that attach and then detach one volume, one succeeds.
func TestAttachRace(t *testing.T) {
	_, k, open := attachBed(t)
	h := open()
	create(t, h, "a", 8<<20)
	race := func(verb func() error) (won int) {
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for range cap(errs) {
			wg.Go(func() { errs <- verb() })
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			if err == nil {
				won++
			}
		}
		return won
	}
	for range 20 {
		won := race(func() error { _, err := h.Attach(t.Context(), "a", api.AttachRequest{}); return err })
		if n := len(k.Connected()); won != 1 || n != 1 {
			t.Fatalf("%d attached, there are %d devices", won, n)
		}
		race(func() error {
			_, err := h.Detach(t.Context(), api.DetachRequest{Name: "a", Force: true})
			return err
		})
		if v := must[api.Volume](t)(h.Show(t.Context(), "a")); len(k.Connected()) != 0 || v.Device != "" {
			t.Fatalf("it is still %q", v.Device)
		}
	}
}
