// Package sharing knows, for every distinct block of a set of block maps, which disks have
// it, and keeps that up to date at a cost that follows what changed.
//
// # How it counts
//
// Block maps are Merkle trees, and disks that share data share pages. The index holds each
// page and each block once, as a node, with the nodes below a page. When a disk's root has
// changed, only pages that the index does not hold yet are read; what the old root had and
// the new one lacks is in the index already. So a fork costs no page at all, a changed
// block one page for each level, and a removed disk, whose pages the store may have lost
// meanwhile, is taken out without a read.
//
// A node belongs to the disks that reach it: the union of the disks of its parents. For
// every node the index keeps how many references it has from parents of which disks, so
// that a change goes down only as far as it changes something. Changes go down level by
// level, those of all roots together: a thousand removed forks cost as much as one. These multisets, and the
// sets of disks, are stored once each and numbered: a host has few distinct ones. The sums
// of bytes are kept by multiset, so that a total does not touch a single block.
//
// Blocks are the same if their hashes are and if they take the same room in the store.
// One content that was stored in two encodings, by two hosts, is two blocks.
//
// # Memory
//
// A distinct block takes about 50 bytes. Size estimates the whole, so that the user of an
// index can drop it.
//
// # Concurrency
//
// An Index belongs to one goroutine at a time.
package sharing
