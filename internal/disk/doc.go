// Package disk has what a host knows of each of its volumes: the record, the open
// volume, the claim on its log, its shipper and its guests; and the table of all of
// them, by id and by name.
//
// A Disk is a volume or a snapshot of this host, open or not. The packages above
// (ownership, publication, durability, export, cleaner, inspect) act on disks; this
// one decides nothing. What it has to ask of them goes through Hooks, which the host
// sets before it opens the first volume.
//
// # Invariants
//
//	one-verb-at-a-time  a verb that changes a disk holds its Op
//	record-first        a change that people ask for is in the record before it has an
//	                    effect; a record that cannot be saved changes nothing
//	claims-hold-the-log a disk that is not open holds the log segments of its record
//	all-or-none         a call that makes volumes makes all or none of them, whenever the
//	                    host stops (unfinished.go)
//
// # Locks, in the order in which they are taken
//
//	Disk.Op         one verb on a disk at a time; held over I/O, never on the path of reads
//	                and writes. A volume's comes before its snapshots'
//	Disk.Moving     the published state moves (exclusive), or is forked (shared); held over I/O
//	Table.Cleaning  which segments volumes let go of; held over I/O on the local disk
//	Table.Mu        the maps of the table; never held over I/O
//	Disk.mu         what of a disk changes together: record, open volume, connections; held
//	                over the saving of a closed disk's record
//
// Any goroutine may call anything; "under op" means that the caller holds Disk.Op.
package disk
