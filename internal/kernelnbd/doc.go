// Package kernelnbd makes block devices (/dev/nbdN) of NBD connections, with the
// nbd module of the machine's kernel.
//
// The module is told what to do over generic netlink (family "nbd"), which knows
// what the older ioctls do not: no process has to sit in a system call for as
// long as the device lives, a device whose connection died keeps its requests for
// a while (dead_conn_timeout) and is given a new one, and a device carries an
// identifier (/sys/block/nbdN/backend, since Linux 5.14), so that after a restart
// nobody takes another's device for his own.
//
// The messages are a header, a second header and a list of attributes, so they
// are written here, over golang.org/x/sys/unix, which Glide links anyway. The
// libraries for it (mdlayher/genetlink with its netlink and socket, and parts of
// golang.org/x/net) would be four more modules in the binary for one screen of
// code. netlink.go has the messages, nbd.go what the module knows, sysfs.go
// what the kernel shows of its devices.
//
// # How a device lives through a restart
//
// The other end of the connection is in this process's address space: a socket
// pair, one end for the kernel, one for the server. When the process dies the
// kernel sees its end close. Requests that it has yet to send wait for a new
// connection, as long as Config.DeadTimeout; then they fail. Requests that
// were sent and not answered are sent again once they are older than
// Config.Timeout: the kernel has no earlier moment for that. So Timeout is also
// how long a guest may wait after a crash, however quick the restart.
//
// A device has one connection. With several, the kernel would send a request
// that took too long on one of them again on another, while the first may still
// be carried out: a write that arrives late would put old bytes over newer ones.
// With one, it waits for the next, and whoever gives it that has first made sure
// that nothing of the last is under way.
package kernelnbd
