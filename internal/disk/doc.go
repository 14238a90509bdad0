// Package disk holds what a host knows of each of its volumes: the record, the open
// volume, the claim on its log segments, its shipper and its guests. Its Table finds them
// by id and by name.
//
// A Disk is a volume or a snapshot of this host, open or not. The packages above
// (ownership, publication, durability, export, cleaner, inspect) act on disks; this
// package makes no decisions. It calls the packages above through Hooks, which the host
// sets before it opens the first volume.
//
// # Invariants
//
//	one-verb-at-a-time  a verb that changes a disk holds its Op
//	record-first        a change that a user asks for is saved in the record before it takes
//	                    effect; if the record cannot be saved, nothing changes
//	claims-hold-the-log a disk that is not open holds the log segments that its record names
//	all-or-none         a call that creates volumes creates all or none of them, whenever the
//	                    host stops (unfinished.go)
//
// # Locks, in the order in which they are taken
//
//	Disk.Op         serializes the verbs on one disk; held over I/O, never taken by reads and
//	                writes of guests. A volume's comes before its snapshots'
//	Disk.Moving     exclusive while the published state moves, shared while it is forked; held
//	                over I/O
//	Table.Cleaning  which segments volumes let go of; held over I/O on the local disk
//	Table.Mu        the maps of the table; never held over I/O
//	Disk.mu         the fields of a disk that change together: record, open volume,
//	                connections; held while the record of a closed disk is saved
//
// All functions and methods may be called concurrently. "Under op" means that the caller
// holds Disk.Op.
package disk
