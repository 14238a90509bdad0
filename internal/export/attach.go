package export

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/kernelnbd"
	"github.com/paraglide/glide/internal/volume"
	"github.com/paraglide/glide/nbd"
)

// Kernel creates block devices from NBD connections. kernelnbd.Kernel implements it for
// this machine and documents the methods.
type Kernel interface {
	Prepare()
	Check() (string, error)
	Connected() map[int]string
	Connect(c kernelnbd.Config, sock *os.File) (index int, err error)
	Reconnect(c kernelnbd.Config, sock *os.File) error
	Resize(c kernelnbd.Config) error
	Hold(ctx context.Context, index int) (release func(), err error)
	Disconnect(index int) error
}

// Defaults of attach. When the log is full, a request fails after 20 s; a shorter timeout
// would hide that error.
const (
	defaultAttachTimeout = 30 * time.Second
	defaultDeadTimeout   = 10 * time.Minute
)

// AttachmentsFact is the key of the host's fact that lists its devices.
const AttachmentsFact = "attachments"

// Attachments are the kernel block devices that this host serves, at most one per disk.
// They outlive the process: see Reclaim.
type Attachments struct {
	mayGrow func() error // refuses to record anything new when the disk is full
	disks   *disk.Table
	exports *Exports
	Kernel  Kernel
	server  *nbd.Server // serves only these devices; it does not listen
	prepare sync.Once
	wg      sync.WaitGroup
	ctx     context.Context // canceled when the devices are left to the next process
	leave   context.CancelFunc

	mu        sync.Mutex // after all other locks; held over a write to the metadata
	all       map[volume.ID]*attached
	attaching map[volume.ID]bool // disks that are being attached
}

// AttachRecord is the stored record of an attachment.
type AttachRecord struct {
	Volume   string `json:"volume"`   // the volume's id
	Device   int    `json:"device"`   // the N of /dev/nbdN
	Identity string `json:"identity"` // of the device, as kernelnbd reports it
	Timeout  int64  `json:"timeout_ms"`
	Dead     int64  `json:"dead_timeout_ms"`
}

// NewAttachments returns the devices of a host. Reclaim takes over those of an earlier
// process. Attach calls mayGrow first, which returns an error if nothing new may be
// recorded.
func NewAttachments(kernel Kernel, t *disk.Table, ex *Exports, mayGrow func() error) *Attachments {
	a := &Attachments{
		mayGrow: mayGrow, disks: t, exports: ex, Kernel: kernel, all: map[volume.ID]*attached{}, attaching: map[volume.ID]bool{},
		server: &nbd.Server{Exporter: byID{ex}, Options: nbd.Options{Logger: t.Log}},
	}
	a.ctx, a.leave = context.WithCancel(context.Background())
	return a
}

// backend returns the identifier of a disk's device. It includes the host's id, because
// several hosts may run on one machine.
func (a *Attachments) backend(id volume.ID) string {
	return "glide:" + a.disks.HostID + "/" + id.String()
}

// Attach makes a volume or a snapshot a block device of this machine.
func (a *Attachments) Attach(ctx context.Context, name string, r api.AttachRequest) (api.Attachment, error) {
	index := kernelnbd.AnyDevice
	if r.Device != "" {
		var err error
		if index, err = kernelnbd.ParsePath(r.Device); err != nil {
			return api.Attachment{}, err
		}
	}
	timeout, err := attachTimeout("timeout", r.TimeoutMs, defaultAttachTimeout)
	if err != nil {
		return api.Attachment{}, err
	}
	dead, err := attachTimeout("dead-timeout", r.DeadTimeoutMs, defaultDeadTimeout)
	if err != nil {
		return api.Attachment{}, err
	}
	d, err := a.disks.Local(name, true)
	if err != nil {
		return api.Attachment{}, err
	}
	if err := a.mayGrow(); err != nil {
		return api.Attachment{}, err
	}
	done, err := a.begin(d)
	if err != nil {
		return api.Attachment{}, err
	}
	defer done()
	if _, err := a.Kernel.Check(); err != nil {
		return api.Attachment{}, errs.New(errs.KindOf(err), "volume %q cannot be attached: %w", d, err)
	}
	if err := d.WakeToServe(); err != nil {
		return api.Attachment{}, err
	}
	x := newAttached(a, d, AttachRecord{Volume: d.ID.String(), Device: index, Timeout: timeout, Dead: dead})
	if err := x.connect(ctx); err != nil {
		return api.Attachment{}, err
	}
	return x.view(), nil
}

// begin makes sure that a disk is attached only once at a time.
func (a *Attachments) begin(d *disk.Disk) (done func(), err error) {
	name := d.String()
	a.mu.Lock()
	defer a.mu.Unlock()
	if x := a.all[d.ID]; x != nil {
		return nil, errs.New(errs.Exists, "volume %q is attached already, as %s", name, kernelnbd.Path(x.rec.Device))
	}
	if a.attaching[d.ID] {
		return nil, errs.New(errs.Busy, "volume %q is being attached by somebody else", name)
	}
	a.attaching[d.ID] = true
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.attaching, d.ID)
	}, nil
}

// attachTimeout checks a timeout in milliseconds and returns it; 0 means usual. The
// kernel counts in seconds.
func attachTimeout(name string, ms float64, usual time.Duration) (int64, error) {
	if ms == 0 {
		return usual.Milliseconds(), nil
	}
	if !(ms >= 1000 && ms <= float64((24*time.Hour*365).Milliseconds())) {
		return 0, errs.New(errs.Invalid, "%s must be between a second and a year", name)
	}
	return int64(ms), nil
}

// Detach removes the device of a volume, after everything written to it is durable. A
// device in use is refused, unless r.Force is set.
func (a *Attachments) Detach(ctx context.Context, r api.DetachRequest) (api.Attachment, error) {
	x, err := a.named(r)
	if err != nil {
		return api.Attachment{}, err
	}
	if !r.Force {
		release, err := a.Kernel.Hold(ctx, x.rec.Device)
		if err != nil {
			return api.Attachment{}, err
		}
		defer release()
	}
	v := x.view()
	if !a.end(x) {
		return v, nil // another call detached it or removed the volume meanwhile
	}
	if err := a.disconnect(x); err != nil {
		return api.Attachment{}, err
	}
	select { // when the connection has ended, it no longer counts as one
	case <-x.done:
	case <-time.After(connectionEnds):
	}
	return v, nil
}

// connectionEnds is how long Detach waits for the server's end of the connection.
const connectionEnds = 10 * time.Second

// named returns the attachment that a request names.
func (a *Attachments) named(r api.DetachRequest) (*attached, error) {
	if r.Device != "" {
		index, err := kernelnbd.ParsePath(r.Device)
		if err != nil {
			return nil, err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, x := range a.all {
			if x.rec.Device == index {
				return x, nil
			}
		}
		return nil, errs.New(errs.NotFound, "no volume of this host is attached as %s", r.Device)
	}
	d, err := a.disks.Local(r.Name, true)
	if err != nil {
		return nil, err
	}
	if x := a.of(d.ID); x != nil {
		return x, nil
	}
	return nil, errs.New(errs.NotFound, "volume %q is not attached", d)
}

// of returns the attachment of a disk, or nil.
func (a *Attachments) of(id volume.ID) *attached {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[id]
}

// Device returns the path of a disk's device, or "" if it has none.
func (a *Attachments) Device(id volume.ID) string {
	if x := a.of(id); x != nil {
		return kernelnbd.Path(x.rec.Device)
	}
	return ""
}

// end makes sure that the device gets no more connections. It returns false if that was
// already done.
func (a *Attachments) end(x *attached) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := x.ending
	x.ending = true
	return !was
}

// disconnect disconnects an attachment after end and deletes its record.
func (a *Attachments) disconnect(x *attached) error {
	return errors.Join(a.Kernel.Disconnect(x.rec.Device), a.forget(x))
}

// Abandon disconnects the device of a disk even if it is in use: the disk is being
// removed or replaced. Under op.
func (a *Attachments) Abandon(d *disk.Disk) {
	x := a.of(d.ID)
	if x == nil || !a.end(x) {
		return
	}
	if err := a.disconnect(x); err != nil {
		a.disks.Log.Error("device not disconnected", "device", kernelnbd.Path(x.rec.Device), "volume", d.String(), "error", err)
	}
}

// Resized sets the size of a disk's device. Under op.
func (a *Attachments) Resized(d *disk.Disk) error {
	x := a.of(d.ID)
	if x == nil {
		return nil
	}
	if err := a.Kernel.Resize(x.config(d.State().Size, 0)); err != nil {
		return errs.New(errs.KindOf(err), "volume %q has its new size, but %s does not (resize again): %w", d, kernelnbd.Path(x.rec.Device), err)
	}
	return nil
}

// keep records an attachment durably.
func (a *Attachments) keep(x *attached) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all[x.d.ID] = x
	return a.save()
}

// forget deletes the record of an attachment durably.
func (a *Attachments) forget(x *attached) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all[x.d.ID] != x {
		return nil
	}
	delete(a.all, x.d.ID)
	return a.save()
}

// save writes all records. Under mu.
func (a *Attachments) save() error {
	recs := []AttachRecord{}
	for _, x := range a.all {
		recs = append(recs, x.rec)
	}
	b, err := json.Marshal(recs)
	if err != nil {
		return err
	}
	return a.disks.DB.SetFact(AttachmentsFact, b)
}

// Records reads the stored records.
func (a *Attachments) Records() ([]AttachRecord, error) {
	b, err := a.disks.DB.Fact(AttachmentsFact)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	var recs []AttachRecord
	if err := json.Unmarshal(b, &recs); err != nil {
		return nil, errs.New(errs.Corrupt, "the records of attached devices cannot be read: %w", err)
	}
	return recs, nil
}
