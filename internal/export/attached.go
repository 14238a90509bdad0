package export

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/clock"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
	"golang.org/x/sys/unix"
)

// attached is a disk that is attached as a block device.
type attached struct {
	a      *Attachments
	d      *disk.Disk
	rec    AttachRecord  // constant once there is a device
	ending bool          // under Attachments.mu: the device gets no more connections
	done   chan struct{} // closed when keepConnected returns
}

func newAttached(a *Attachments, d *disk.Disk, rec AttachRecord) *attached {
	return &attached{a: a, d: d, rec: rec, done: make(chan struct{})}
}

func (x *attached) view() api.Attachment {
	st := x.d.State()
	return api.Attachment{
		Name: x.d.String(), Device: kernelnbd.Path(x.rec.Device), Size: st.Size, ReadOnly: st.Snapshot != "",
		TimeoutMs: float64(x.rec.Timeout), DeadTimeoutMs: float64(x.rec.Dead),
	}
}

func (x *attached) config(size uint64, flags uint16) kernelnbd.Config {
	return kernelnbd.Config{
		Index: x.rec.Device, Size: size, Flags: flags, Backend: x.a.backend(x.d.ID),
		Timeout: time.Duration(x.rec.Timeout) * time.Millisecond, DeadTimeout: time.Duration(x.rec.Dead) * time.Millisecond,
	}
}

// connect creates the device. Until its record is durable only the kernel knows the
// device, by its identifier; Reclaim finds it there.
func (x *attached) connect(ctx context.Context) error {
	a := x.a
	a.prepare.Do(a.Kernel.Prepare)
	l, err := x.link(ctx)
	if err != nil {
		return err
	}
	index, err := a.Kernel.Connect(x.config(l.info.Size, l.info.Flags), l.sock)
	l.closeKernelEnd()
	if err != nil {
		<-l.served // so that it does not count as a connection
		return errs.New(errs.KindOf(err), "volume %q cannot be attached: %w", x.d, err)
	}
	x.rec.Device, x.rec.Identity = index, a.Kernel.Connected()[index]
	if err := a.keep(x); err != nil {
		_ = a.disconnect(x)
		return err
	}
	a.wg.Go(func() { x.keepConnected(l.served) })
	if size := x.d.State().Size; size != l.info.Size { // it was resized meanwhile
		return a.Resized(x.d)
	}
	return nil
}

// reconnect gives the device a new connection. served is closed when that connection
// ends.
func (x *attached) reconnect(ctx context.Context) (served <-chan struct{}, err error) {
	l, err := x.link(ctx)
	if err != nil {
		return nil, err
	}
	err = x.a.Kernel.Reconnect(x.config(l.info.Size, l.info.Flags), l.sock)
	l.closeKernelEnd()
	if err != nil {
		return nil, err
	}
	return l.served, nil
}

// link is a connection to a disk, past the handshake.
type link struct {
	sock   *os.File // the kernel's end
	info   nbdclient.Info
	served chan struct{} // closed when the server has finished with it
}

// closeKernelEnd closes this process's copy of the kernel's end. The kernel has its own copy, or
// refused it.
func (l *link) closeKernelEnd() { _ = l.sock.Close() }

// link opens a connection to the disk within this process.
func (x *attached) link(ctx context.Context) (*link, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("connect to volume %q: %w", x.d, err)
	}
	l := &link{served: make(chan struct{})}
	x.a.wg.Go(func() {
		defer close(l.served)
		_ = x.a.server.ServeConn(ours)
	})
	if l.info, err = nbdclient.Handshake(ctx, theirs, x.rec.Volume); err != nil {
		return nil, fmt.Errorf("connect to volume %q: %w", x.d, err)
	}
	l.sock, err = theirs.File()
	_ = theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("connect to volume %q: %w", x.d, err)
	}
	return l, nil
}

// deviceSocketBuffer is how many bytes the kernel may send ahead of the server.
const deviceSocketBuffer = 4 << 20

// socketPair returns two connected sockets.
func socketPair() (ours, theirs *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	// Only root may exceed the system's limit, and only root attaches.
	_ = unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, deviceSocketBuffer)
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, cerr := net.FileConn(f) // it has a descriptor of its own
		_ = f.Close()
		if cerr != nil {
			err = cerr
			continue
		}
		conns[i] = c.(*net.UnixConn)
	}
	if err != nil {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
		return nil, nil, err
	}
	return conns[0], conns[1], nil
}

// Pauses between attempts to reconnect a device. A connection that worked for workedForMs
// is replaced at once.
const (
	firstPause  = 50 * time.Millisecond
	longPause   = time.Second
	workedForMs = 1000
)

// closed stands for a connection that has ended.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// keepConnected gives the device a new connection whenever the last one has ended: the kernel
// drops a connection on which a request took too long. The kernel may send requests of
// the old connection again, so the server must finish the old connection first (see
// nbd.Server.ServeConn).
func (x *attached) keepConnected(served <-chan struct{}) {
	defer close(x.done)
	t, log := x.a.disks, x.a.disks.Log.With("volume", x.d.String(), "device", kernelnbd.Path(x.rec.Device))
	var wait time.Duration
	var logged string
	for {
		began := t.Now()
		<-served
		if x.over() {
			return
		}
		if t.Since(began) > workedForMs {
			wait, logged = 0, ""
		}
		if clock.Pause(x.a.ctx, wait) != nil || x.over() {
			return
		}
		wait = min(max(2*wait, firstPause), longPause)
		var err error
		gone := x.a.Kernel.Connected()[x.rec.Device] != x.rec.Identity
		if !gone {
			served, err = x.reconnect(x.a.ctx)
			gone = kernelnbd.IsGone(err)
		}
		switch {
		case gone:
			log.Info("device disconnected by somebody else")
			if err := x.a.forget(x); err != nil {
				log.Error("device not forgotten", "error", err)
			}
			return
		case err == nil:
			log.Info("device connected again")
		default:
			if err.Error() != logged {
				logged = err.Error()
				log.Warn("device not connected again yet", "error", err)
			}
			served = closed
		}
	}
}

// over reports whether the device gets no more connections from this process.
func (x *attached) over() bool {
	x.a.mu.Lock()
	defer x.a.mu.Unlock()
	return x.ending || x.a.ctx.Err() != nil
}

// Reclaim takes over the devices that an earlier process of this host created and that
// still exist unchanged. Their requests have been waiting. Devices that the earlier
// process had no time to record are found by their identifier. Records of devices that
// the last reboot removed are deleted.
func (a *Attachments) Reclaim(ctx context.Context) error {
	recs, err := a.Records()
	if err != nil {
		return err
	}
	log := a.disks.Log
	have, known := a.Kernel.Connected(), map[int]bool{}
	for _, r := range recs {
		known[r.Device] = have[r.Device] == r.Identity
	}
	for index, identity := range have {
		if id, ok := strings.CutPrefix(identity, "glide:"+a.disks.HostID+"/"); ok && !known[index] {
			recs = append(recs, AttachRecord{
				Volume: id, Device: index, Identity: identity,
				Timeout: defaultAttachTimeout.Milliseconds(), Dead: defaultDeadTimeout.Milliseconds(),
			})
		}
	}
	for _, r := range recs {
		path := kernelnbd.Path(r.Device)
		d := a.disks.ByText(r.Volume)
		switch {
		case have[r.Device] != r.Identity:
			log.Info("device is gone or was reused", "device", path, "volume", r.Volume)
		case d == nil || a.of(d.ID) != nil:
			log.Warn("device disconnected: its volume is gone", "device", path, "volume", r.Volume)
			if err := a.Kernel.Disconnect(r.Device); err != nil {
				log.Error("device not disconnected", "device", path, "error", err)
			}
		default:
			a.resume(ctx, newAttached(a, d, r))
		}
	}
	if len(recs) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.save(); err != nil { // the next start finds what is out of date in them
		log.Warn("the records of devices could not be written", "error", err)
	}
	return nil
}

// resume reconnects an existing device.
func (a *Attachments) resume(ctx context.Context, x *attached) {
	a.prepare.Do(a.Kernel.Prepare)
	a.mu.Lock()
	a.all[x.d.ID] = x
	a.mu.Unlock()
	served, err := x.reconnect(ctx)
	if err != nil {
		a.disks.Log.Warn("device not connected again yet", "volume", x.d.String(), "device", kernelnbd.Path(x.rec.Device), "error", err)
		served = closed
	} else {
		a.disks.Log.Info("device connected again", "volume", x.d.String(), "device", kernelnbd.Path(x.rec.Device))
	}
	a.wg.Go(func() { x.keepConnected(served) })
}

// Stop ends the connections in good order. The devices wait for the next process. Call it
// before anything else of the host stops, because requests are still answered.
func (a *Attachments) Stop(ctx context.Context) {
	a.leave()
	_ = a.server.Shutdown(ctx) // it cuts connections that have not ended by then
	over := make(chan struct{})
	go func() {
		a.wg.Wait()
		close(over)
	}()
	select {
	case <-over:
	case <-ctx.Done():
	}
}

// byID is the exporter for the devices' server. It finds volumes by id, because names may
// change during the life of a device.
type byID struct{ ex *Exports }

// Open implements nbd.Exporter.
func (e byID) Open(id string) (*nbd.Export, error) {
	d := e.ex.disks.ByText(id)
	if d == nil {
		return nil, errs.New(errs.NotFound, "the volume was removed")
	}
	return e.ex.openDisk(d)
}

// Describe implements nbd.Exporter. Devices never call it.
func (e byID) Describe(id string) (*nbd.Export, error) {
	return nil, errs.New(errs.NotFound, "no export %q", id)
}

// List implements nbd.Exporter.
func (e byID) List() []string { return nil }
