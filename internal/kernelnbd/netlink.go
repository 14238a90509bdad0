package kernelnbd

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Sizes of netlink's headers in bytes. All integers are in the machine's byte order.
const (
	headerSize  = 16 // struct nlmsghdr
	genericSize = 4  // struct genlmsghdr
	attrSize    = 4  // struct nlattr
	// maxMessage bounds one received message; the kernel sends a page or two at most.
	maxMessage = 64 << 10
)

var native = binary.NativeEndian

// attrs is an encoded list of attributes: each a length, a type and a value, padded
// to four bytes.
type attrs []byte

func (a attrs) add(typ uint16, value []byte) attrs {
	a = native.AppendUint16(a, uint16(attrSize+len(value)))
	a = native.AppendUint16(a, typ)
	a = append(a, value...)
	for len(a)%4 != 0 {
		a = append(a, 0)
	}
	return a
}

func (a attrs) u32(typ uint16, v uint32) attrs { return a.add(typ, native.AppendUint32(nil, v)) }
func (a attrs) u64(typ uint16, v uint64) attrs { return a.add(typ, native.AppendUint64(nil, v)) }
func (a attrs) text(typ uint16, s string) attrs {
	return a.add(typ, append([]byte(s), 0))
}
func (a attrs) nest(typ uint16, in attrs) attrs { return a.add(typ|unix.NLA_F_NESTED, in) }

var errTruncated = errors.New("netlink: the message ends early")

// each calls fn for every attribute of the list.
func (a attrs) each(fn func(typ uint16, value []byte) error) error {
	for len(a) > 0 {
		if len(a) < attrSize {
			return errTruncated
		}
		n := int(native.Uint16(a))
		if n < attrSize || n > len(a) {
			return errTruncated
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		if err := fn(native.Uint16(a[2:])&^flags, a[attrSize:n]); err != nil {
			return err
		}
		a = a[min((n+3)&^3, len(a)):]
	}
	return nil
}

// request is a whole message for a family of generic netlink.
func request(family uint16, seq uint32, command uint8, in attrs) []byte {
	b := make([]byte, 0, headerSize+genericSize+len(in))
	b = native.AppendUint32(b, uint32(headerSize+genericSize+len(in)))
	b = native.AppendUint16(b, family)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = native.AppendUint32(b, seq)
	b = native.AppendUint32(b, 0)   // the sender's port: the kernel fills it in
	b = append(b, command, 1, 0, 0) // version 1
	return append(b, in...)
}

// replies reads a datagram of messages. done tells whether the request with number
// seq is over; then the error is the kernel's result.
func replies(b []byte, seq uint32, each func(attrs) error) (done bool, err error) {
	for len(b) > 0 {
		if len(b) < headerSize {
			return true, errTruncated
		}
		n := int(native.Uint32(b))
		if n < headerSize || n > len(b) {
			return true, errTruncated
		}
		typ, body := native.Uint16(b[4:]), b[headerSize:n]
		mine := native.Uint32(b[8:]) == seq
		b = b[min((n+3)&^3, len(b)):]
		switch {
		case !mine:
		case typ == unix.NLMSG_ERROR: // error number 0 means success
			if len(body) < 4 {
				return true, errTruncated
			}
			if errno := -int32(native.Uint32(body)); errno != 0 {
				return true, unix.Errno(errno)
			}
			return true, nil
		case len(body) < genericSize:
			return true, errTruncated
		default:
			if err := each(attrs(body[genericSize:])); err != nil {
				return true, err
			}
		}
	}
	return false, nil
}

// socket is a generic netlink socket for one request at a time.
type socket struct {
	fd     int
	family uint16
	seq    uint32
}

// dial connects to a family. If the kernel does not have it, the error is ENOENT.
func dial(family string) (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	s := &socket{fd: fd, family: unix.GENL_ID_CTRL}
	err = s.do(unix.CTRL_CMD_GETFAMILY, attrs(nil).text(unix.CTRL_ATTR_FAMILY_NAME, family), func(a attrs) error {
		return a.each(func(typ uint16, v []byte) error {
			if typ == unix.CTRL_ATTR_FAMILY_ID && len(v) >= 2 {
				s.family = native.Uint16(v)
			}
			return nil
		})
	})
	if err == nil && s.family == unix.GENL_ID_CTRL {
		err = unix.ENOENT
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// do sends a command and calls each for every reply.
func (s *socket) do(command uint8, in attrs, each func(attrs) error) error {
	s.seq++
	if err := unix.Sendto(s.fd, request(s.family, s.seq, command, in), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	b := make([]byte, maxMessage)
	for {
		n, _, err := unix.Recvfrom(s.fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("netlink: %w", err)
		}
		if done, err := replies(b[:n], s.seq, each); done {
			return err
		}
	}
}
