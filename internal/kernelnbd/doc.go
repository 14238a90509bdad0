// Package kernelnbd turns NBD connections into block devices (/dev/nbdN), with the
// kernel's nbd module.
//
// It controls the module over generic netlink (family "nbd"), which has three
// advantages over the older ioctls: no process stays in a system call for the life
// of the device; a device whose connection died keeps its requests for a while
// (dead_conn_timeout) and accepts a new connection; and a device carries an
// identifier (/sys/block/nbdN/backend, since Linux 5.14), so that after a restart
// nobody mistakes another program's device for its own.
//
// A message is a header, a second header and a list of attributes. They are written
// here, over golang.org/x/sys/unix, which Glide links anyway. The libraries for it
// (mdlayher/genetlink with its netlink and socket, and parts of golang.org/x/net)
// would add four modules to the binary to save one screen of code. netlink.go has
// the messages, nbd.go the module's commands, sysfs.go what the kernel shows of its
// devices.
//
// # How a device lives through a restart
//
// The connection is a socket pair: one end for the kernel, one for the server in
// this process. When the process dies, the kernel sees its end close. Unsent requests
// wait for a new connection, up to Config.DeadTimeout; then they fail. Requests that
// were sent and not answered are sent again when they are older than
// Config.Timeout: the kernel has no earlier moment for that. So Timeout is also
// how long a guest may wait after a crash, however quick the restart.
//
// A device has one connection. With several, the kernel would repeat a slow request
// on another connection while the first copy may still be executed: a late write
// would put old bytes over newer ones. With one connection, the kernel waits for the
// next one, and the caller of Reconnect first makes sure that no request of the last
// connection is in flight.
package kernelnbd
