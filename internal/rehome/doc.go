// Package rehome moves a tenant that was plain into its domain, while its guests run: glide
// tenant seal. Each of its volumes and snapshots on this host gets a block map with the same
// content of which nothing is plain, a part at a time; volumes that nobody owns are woken
// here, moved and given back. What other hosts own is reported, for them to do.
//
// Nothing records how far it is. What is left is found by looking, so it may end anywhere,
// and begins again with the next call.
//
// # Guarantees
//
//   - moved-is-all: Keyrings.Moved comes only after all that the store shows of the tenant
//     was read as it is read afterwards, twice, with a look at the pins in between: newest
//     objects and the data commits under them, maps of volumes and snapshots, what is kept
//     for former owners, what pins keep. And no host that is healthy takes the tenant for a
//     plain one by then (tenants.SettleFor).
//   - A fork, a rollback or a restore that was begun before is pinned until it is published,
//     so one of the two looks finds it. Those that would bring back what is plain are refused
//     while a tenant is moved (package catalog).
//   - no-stall: a step holds the Op of a volume for some seconds at most, so that data commits
//     are folded and verbs go on.
//
// Its lock guards who is at work, and is held over nothing.
package rehome
