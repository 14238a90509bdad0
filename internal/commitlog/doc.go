// Package commitlog keeps a volume's numbered commits in the object store. It
// implements the first section of docs/protocols.md; "rule n" in comments is a rule of
// that section.
//
// # The log
//
// A volume's log is the objects under t/<tenant>/volumes/<name>/log/. Their keys
// are <epoch>/<number>; epoch.number is the Generation. Every object is created
// only if it is absent, so each number has one creator. That alone gives
// ownership, fencing, atomic publication and history. An epoch begins with a
// first object (number 1), which names the host that owns it. Commits of that host
// follow, and a seal of any host ends it. The tip, which is the volume, is the end
// of the unbroken run of the greatest epoch that has a first object.
//
// Listed, Newest, Load and Replay read; Owner writes; History and Tips list;
// Look and Owner.CheckSeal watch for a seal.
//
// # A claim wins
//
// An owner that finds its epoch sealed by another host yields (rule 13): it
// acknowledges nothing, and looks for the first object of the next epoch. If
// there is none after 30 s of its monotonic clock, it opens that epoch itself and
// sends the commits that the seal cut off again there. The length of the wait
// matters for liveness only: both hosts may try to create the first object (rule 2).
//
// A claimer's seal comes too late if the owner commits faster than the claimer's
// requests travel. Then the claimer puts seals ahead: at some numbers beyond the tip,
// and at number 2 of later epochs. Beyond the gap they are not part of the log (rule
// 6). The owner fills the gap, collides with one, and yields. A seal ahead carries no
// state, because its sender does not know what will precede it. While it is the tip,
// the object before it opens the volume, and Load returns the seal with that state.
// (That object is not removed before the next epoch has begun.) The claimer then opens
// the next epoch, whose first object carries the whole state. An abandoned seal ahead
// costs an owner one pause at most, because the others of its epoch are beyond the
// first. The first object of an epoch names the end of the previous epoch
// (Identity.After), so a late seal ahead beyond that end is not mistaken for it.
//
// # Guarantees
//
//   - one-writer: an Owner commits only to an epoch whose first object it created
//     itself in this process (rules 1 and 4). A host that claims the volume creates
//     an object at the next number, so the owner's next commit collides.
//   - A collision counts only after another host's mark has been read back (rule 5).
//     A failed request may still take effect: its bytes are kept, and settled before
//     anything else is sent.
//   - published-is-complete: Commit is called when everything that the state names is
//     durable, and stays pinned while the Owner is Unsettled.
//   - no-silent-rollback: Claim shows the newest object to its caller before it sends
//     anything, and again whenever the log has changed. Newest makes sure that
//     nothing follows the object that the store's list showed.
//   - This package never deletes or replaces an object of a log; the collector does
//     (rules 3 and 10), with Object.Stub.
//
// # Objects
//
// docs/formats/commit.md has the bytes. Tombstones, stubs and seals ahead carry only the
// Identity of a State. Package pinobject is the other half of publishing: pin, check,
// commit, drop.
//
// # Concurrency
//
// Owner.mu is the only lock. It is held during requests, so an Owner has one request
// in flight at a time, except for those of Ship: many may be in flight, and they take
// effect in order. Generation, Unsettled and Err do not take the lock.
package commitlog
