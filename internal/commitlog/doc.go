// Package commitlog keeps a volume's numbered commits in the object store, and
// the pins by which hosts announce what they refer to. It implements section 1
// of protocols.md; "rule n" in comments is a rule of that section.
//
// # The log
//
// A volume's log is the objects under t/<tenant>/volumes/<name>/log/. Their keys
// are <epoch>/<number>; epoch.number is the Generation. Every object is created
// only if it is absent, and whoever creates a number has it: that alone gives
// ownership, fencing, atomic publication and history. An epoch begins with a
// first object (number 1), which names the host that owns it, goes on with that
// host's commits, and ends in a seal, by whomever. The tip, which is the volume,
// is the end of the unbroken run of the greatest epoch that has a first object.
//
// Listed, Newest, Load and Replay read; Owner writes; History and Tips list;
// Look and Owner.CheckSeal watch for a seal.
//
// # A claim wins
//
// An owner that finds its epoch sealed by another host yields (rule 13): it
// acknowledges nothing, and looks for the first object of the next epoch. If
// there is none after half a minute by its monotonic clock, it opens that epoch
// itself and sends what the seal cut off again, there. How long it waits is a
// matter of liveness alone: either host may race for the first object (rule 2).
//
// A claimer whose seal comes too late, since the owner commits faster than the
// claimer's requests travel, puts seals ahead: some numbers beyond the tip, and at
// number 2 of epochs to come. Beyond the gap they are no part of the log (rule
// 6). The owner fills the gap, collides with one, and yields. A seal ahead
// carries no state, for its maker does not know what will be before it: as long
// as it is the tip, the object before it, which is not removed before the next
// epoch is begun, opens the volume, and Load returns the seal with that state. The
// claimer then opens the next epoch, whose first object carries the whole state.
// Wherever a seal ahead is left, it costs an owner one pause at most: those of
// one epoch lie behind the first that was met. The first object of an epoch says
// where the epoch before ended (Identity.After), so that nothing behind its end, a
// seal ahead that came late, say, can be taken for it.
//
// # What may be relied on
//
//   - one-writer: an Owner commits only to an epoch whose first object it created
//     itself in this process (rules 1 and 4). Whoever claims the volume creates an
//     object at the next number, so that the next commit collides.
//   - A collision is believed only after reading back and finding another's mark
//     (rule 5). Every request that failed may still take effect: its bytes are
//     kept, and settled before anything else is sent.
//   - published-is-complete: Commit is called when all that the state names is
//     durable, and what it names stays pinned while the Owner is Unsettled.
//   - no-silent-rollback: Claim shows the newest object to its caller before
//     it sends anything, and again whenever the log has moved. Newest makes sure
//     that nothing follows what the store's list showed.
//   - Nothing here deletes or replaces an object of a log; the collector does
//     (rules 3 and 10), with Object.Stub.
//
// # The object
//
// Integers are little-endian. The first 40 bytes mean the same in every version.
//
//	offset  bytes  content
//	0       4      magic "GLDC"
//	4       2      version: 2 of a seal ahead, 1 of every other object
//	6       1      kind: 1 first, 2 commit, 3 seal, 4 stub
//	7       1      flags: 1 released (seals and their stubs), 2 tombstone; others zero
//	8       8      epoch, at least 1
//	16      8      number, at least 1
//	24      16     mark: random, unique to the object
//	40      4      ahead: objects before this one that its sender had not seen
//	               taking effect, at most 1024; a seal that has some is a seal ahead
//	44      4      s, the length of the state, at most 1 MiB
//	48      4      d, the length of the data, at most 32 MiB
//	52      4      CRC32C of bytes 0 to 51 and of all that follows byte 55
//	56      s      state: JSON, see State; Identity alone in tombstones, stubs and
//	               seals ahead
//	56+s    d      data; in commits only
//
// The data of a data commit: the byte ranges that it changes.
//
//	offset  bytes  content
//	0       1      encoding of the body: 0 as it is, 1 zstd
//	1       3      zero
//	4       4      length of the body, decoded, at most 32 MiB - 8
//	8              body
//
// The body, decoded:
//
//	offset  bytes  content
//	0       4      n, the number of ranges
//	4       4      zero
//	8       16·n   ranges, in order and not overlapping: offset (8 bytes), length
//	               (8 bytes, at least 1; bit 63 is set if the range becomes zeros)
//	8+16·n         the bytes of the ranges that do not become zeros, in order
//
// # Pins
//
// A pin is an object pins/<host>/<id>, immutable, at most 1 MiB of JSON that
// begins with "format":"glide-pin" and "version":1 (see Pin). Pins are here
// rather than in a package of their own because they are the other half of
// publishing: announce, look, commit, drop.
//
// # Concurrency
//
// Owner.mu is the only lock. It is held during requests, so that an Owner has one
// under way at a time, but for those of Ship, which are many at once and take
// effect in order. Generation, Unsettled and Err do not take it.
package commitlog
