package doors

import (
	"net"

	"golang.org/x/sys/unix"
)

// userOf returns the user at the other end of a unix socket, as the kernel knows it.
func userOf(nc net.Conn) (id uint32, ok bool) {
	u, is := nc.(*net.UnixConn)
	if !is {
		return 0, false
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, false
	}
	err = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			id, ok = cred.Uid, true
		}
	})
	return id, ok && err == nil
}
