// Package nbd serves block devices over the NBD protocol: fixed newstyle, with
// structured replies, block status and TLS. It knows nothing of where the bytes
// are kept: whoever has a Device can serve it.
//
// # Structure
//
// The messages are in internal/wire: bytes in, values out. handshake.go is the
// option phase. The transmission phase is
//
//   - conn.go, the receive loop: one goroutine for each connection, which reads
//     as many requests at once as there are, and collects their replies;
//   - request.go, what each request does;
//   - readers.go, a pool for what may have to wait for a disk or a network (reads
//     that TryReadAt declined, long reads, block status);
//   - flusher.go, a goroutine that makes flushes share;
//   - outlet.go, the way out, which keeps slow clients from stopping any of these.
//
// server.go listens, stops, and watches over all connections.
//
// # The way of a request
//
// The receive loop reads into one buffer, and gives consecutive writes to the
// device together, each where it was received, with its header in front for the
// device to use. Zeroing and hints are done there too, in order, so that a request
// sees what an earlier one on its connection did. A read is answered there if the
// device has the data at hand, straight into the buffer of replies, which goes out
// when there are no more requests or 256 KiB of replies. None of this allocates.
// Everything else is handed over, with a promise to the outlet of how much
// reply will come; a connection that is owed too much reads no new requests.
//
// A flush whose client waits for nothing else is done in the receive loop;
// others wait together for the next call of Device.Flush.
//
// An idle connection holds 8 KiB and a goroutine.
//
// # Locks
//
//   - Server.mu: the listeners and connections.
//   - readers.mu: the jobs of all connections, and whose turn it is.
//   - flusher.mu, one for each connection: who waits for a flush.
//   - outlet.mu, one for each connection: replies under way and promised. It is
//     held while trying the socket, but never while waiting for it.
//
// No two are ever held together, and none while the Device or the Exporter is called.
package nbd
