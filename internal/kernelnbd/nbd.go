package kernelnbd

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/internal/errs"
)

// The commands and attributes of the family "nbd" (linux/nbd-netlink.h).
const (
	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdStatus      = 5

	attrIndex       = 1
	attrSizeBytes   = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrSockets     = 7
	attrDeadTimeout = 8
	attrDevices     = 9
	attrBackend     = 10

	attrItem      = 1 // of attrSockets and of attrDevices
	attrSocketFD  = 1
	attrDevIndex  = 1
	attrConnected = 2
)

// AnyDevice lets the kernel choose a device.
const AnyDevice = -1

// sectorSize is the devices' logical block size, in bytes: the unit of most images'
// partition tables.
const sectorSize = 512

// Config describes a device.
type Config struct {
	Index int // the N of /dev/nbdN, or AnyDevice
	Size  uint64
	Flags uint16 // the server's transmission flags of the NBD protocol
	// Timeout is how old a request may get before its connection counts as dead
	// and the request is sent again on the next one. DeadTimeout is how long
	// requests wait for a connection before they fail. Both in whole seconds.
	Timeout, DeadTimeout time.Duration
	// Backend identifies the device's owner.
	Backend string
}

// Kernel is the kernel of this machine. The zero Kernel is ready.
type Kernel struct{}

// Connect turns a connection after the handshake into a device, and returns its
// number. The kernel then holds its own reference to the socket.
func (Kernel) Connect(c Config, sock *os.File) (int, error) {
	index := c.Index
	a := attrs(nil).u64(attrSizeBytes, c.Size).u64(attrBlockSize, sectorSize).u64(attrServerFlags, uint64(c.Flags)).
		u64(attrTimeout, seconds(c.Timeout)).u64(attrDeadTimeout, seconds(c.DeadTimeout)).text(attrBackend, c.Backend)
	if index != AnyDevice {
		a = a.u32(attrIndex, uint32(index))
	}
	err := withFD(sock, func(fd uint32) error {
		return do(cmdConnect, a.nest(attrSockets, sockets(fd)), func(a attrs) error {
			return a.each(func(typ uint16, v []byte) error {
				if typ == attrIndex && len(v) >= 4 {
					index = int(native.Uint32(v))
				}
				return nil
			})
		})
	})
	switch {
	case errors.Is(err, unix.EBUSY):
		return 0, errs.New(errs.Busy, "%s is in use: choose another device, or leave out --device", Path(c.Index))
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EMFILE):
		return 0, errs.New(errs.Busy, "the kernel has no free nbd device: detach one")
	case err == nil && index == AnyDevice:
		err = errors.New("the kernel does not say which device it took")
	}
	return index, err
}

// Reconnect gives a device a new connection in place of a dead one, and sets its
// size.
func (Kernel) Reconnect(c Config, sock *os.File) error {
	return withFD(sock, func(fd uint32) error {
		return do(cmdReconfigure, c.existing().nest(attrSockets, sockets(fd)), nil)
	})
}

// Resize sets a device's size.
func (Kernel) Resize(c Config) error { return do(cmdReconfigure, c.existing(), nil) }

// existing returns the attributes for a device that is already connected.
func (c *Config) existing() attrs {
	return attrs(nil).u32(attrIndex, uint32(c.Index)).u64(attrSizeBytes, c.Size).text(attrBackend, c.Backend)
}

// Disconnect removes a device, even one in use: requests in flight fail. A device
// that is not connected is not an error.
func (Kernel) Disconnect(index int) error {
	return do(cmdDisconnect, attrs(nil).u32(attrIndex, uint32(index)), nil)
}

// Status lists the numbers of all devices, and whether each is connected.
func (Kernel) Status() (map[int]bool, error) {
	out := map[int]bool{}
	err := do(cmdStatus, nil, func(a attrs) error {
		return a.each(func(typ uint16, list []byte) error {
			if typ != attrDevices {
				return nil
			}
			return attrs(list).each(func(_ uint16, item []byte) error {
				index, connected := -1, false
				err := attrs(item).each(func(typ uint16, v []byte) error {
					switch {
					case typ == attrDevIndex && len(v) >= 4:
						index = int(native.Uint32(v))
					case typ == attrConnected && len(v) >= 1:
						connected = v[0] != 0
					}
					return nil
				})
				if index >= 0 {
					out[index] = connected
				}
				return err
			})
		})
	})
	return out, err
}

// Check tells whether devices are possible here: a description, or the reason why
// not.
func (k Kernel) Check() (string, error) {
	all, err := k.Status()
	if err != nil {
		return "", err
	}
	used := 0
	for _, connected := range all {
		if connected {
			used++
		}
	}
	return fmt.Sprintf("the kernel has nbd, %d of %d devices are connected", used, len(all)), nil
}

// Describe is the result of Check for a person. A failure is not an error for a user
// who attaches no device.
func Describe(detail string, err error) string {
	if err != nil {
		return "none can be attached: " + err.Error()
	}
	return detail
}

// Prepare readies this process to serve devices of its own machine: an allocation
// of memory must not wait for a write to one of its own devices. Without
// CAP_SYS_RESOURCE, or on a kernel before 5.6, it does nothing.
func (Kernel) Prepare() {
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0)
}

// do sends one command to the nbd module.
func do(command uint8, in attrs, each func(attrs) error) error {
	if each == nil {
		each = func(attrs) error { return nil }
	}
	s, err := dial("nbd")
	if errors.Is(err, unix.ENOENT) {
		return noModule()
	}
	if err != nil {
		return err
	}
	defer s.close()
	err = s.do(command, in, each)
	if errors.Is(err, unix.EPERM) {
		return errs.New(errs.Unsupported, "kernel devices need root: run glide serve as root (or with CAP_SYS_ADMIN)")
	}
	return err
}

func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

func sockets(fd uint32) attrs { return attrs(nil).nest(attrItem, attrs(nil).u32(attrSocketFD, fd)) }

// withFD calls fn with the file's descriptor, which stays open during the call.
func withFD(f *os.File, fn func(fd uint32) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	if cerr := raw.Control(func(fd uintptr) { err = fn(uint32(fd)) }); cerr != nil {
		return cerr
	}
	return err
}
