// Package tenants knows the tenants of a store, and has the keys of those that are sealed,
// as far as they can be had here.
//
// A tenant that has a record in the store, tenants/<name>, with a domain is sealed: what it
// has in the store is under the keys of that domain, whose keyrings package keys reads. A
// tenant without is plain. docs/formats/tenant.md has the bytes of a record.
//
// A tenant is looked up when somebody needs the store for it the first time: a host that only
// ever uses volumes of its own asks nothing. From then on, Refresh looks again at those that
// were used, and so finds rotations. The keys stay in memory as long as the process.
//
// # Guarantees
//
//   - no-downgrade: a tenant that was sealed once is never taken for a plain one, whatever
//     the store shows: hosts remember (Memory).
//   - no-old-keyring: nor is an older keyring than the one that was seen last.
//   - locked-is-not-lost: without keys, everything that needs them fails with the reason, an
//     error of package keys. It is tried again when it is needed again.
//   - sealed-home: the hasher and the log's keys of a sealed tenant are never plain ones
//     once this process knows; what knows nothing asks first (Hasher.Ready, Keys).
//
// All methods may be called concurrently. No lock is held over I/O but the turn of one
// tenant, for which callers wait as long as their context.
package tenants
