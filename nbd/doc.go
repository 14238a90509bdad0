// Package nbd serves block devices over the NBD protocol: fixed newstyle, with
// structured replies, block status and TLS. It serves any Device, and knows nothing
// about where the bytes are stored.
//
// # Structure
//
// The messages are in internal/wire: bytes in, values out. handshake.go is the
// option phase. The transmission phase is
//
//   - conn.go, the receive loop: one goroutine per connection, which reads all
//     waiting requests at once, and collects their replies;
//   - request.go, the execution of each request;
//   - readers.go, a pool for requests that may block on a disk or a network (reads
//     that TryReadAt declined, long reads, block status);
//   - flusher.go, a goroutine that lets waiting flushes share one Device.Flush;
//   - outlet.go, the sending side, which keeps a slow client from blocking any of these.
//
// server.go listens, stops, and watches all connections.
//
// # How a request is executed
//
// The receive loop reads into one buffer. It gives consecutive writes to the device
// together, without moving them; the device may use the header in front of each.
// Zeroing and hints are executed there too, in order, so that a request sees the
// effects of earlier ones on its connection. If the device has the data of a read in
// memory, it goes straight into the buffer of replies, which is sent when no request
// is left or there are 256 KiB of replies. None of this allocates. Everything else is
// handed over, and the outlet reserves room for its reply; a connection with too much
// reserved reads no new requests.
//
// A flush runs in the receive loop if its client waits for nothing else. Other
// flushes wait together for the next call of Device.Flush.
//
// An idle connection holds 8 KiB and a goroutine.
//
// # Locks
//
//   - Server.mu: the listeners and connections.
//   - readers.mu: the jobs of all connections, and which connection is next.
//   - flusher.mu, one per connection: the flushes that wait.
//   - outlet.mu, one per connection: replies queued and promised. It is held during
//     a non-blocking send, but never while waiting for the socket.
//
// No two are ever held together, and none while the Device or the Exporter is called.
package nbd
