// Package blockmap maps block indexes to the places of their bytes in the
// store: a copy-on-write Merkle radix tree with a fan-out of 64, immutable once
// published, loaded page by page.
//
// # The tree
//
// A page at level 0 (a leaf) holds up to 64 references to blocks; a page at level n > 0
// holds up to 64 references to pages of level n-1. Block i is found through the slots (i
// >> 6n) & 63, from the top level down to 0. An absent slot is a hole: a block, or a
// whole subtree, that reads as zeros and costs nothing. The tree is exactly as high as
// its number of blocks requires (HeightFor). Pages contain neither that number nor their
// own position, so equal mappings share pages wherever they lie. The height and the
// reference of the top page are the Root, which commits and local metadata store as text.
//
// # The page
//
// A page is searched in its encoded form, and never decoded into something larger.
// Integers are little-endian.
//
//	offset   bytes  content
//	0        2      magic "GM"
//	2        1      version: 1 if all packs are in domain 0, else 2
//	3        1      level, 0 (leaf) to 8
//	4        1      p, the number of packs, 1 to 64
//	5        3      zero
//	8        8      bitmap: bit s is set when slot s is present; n bits are set, at least one
//	16       24·p   pack table: pack IDs (12 bytes content, 12 bytes nonce), strictly increasing, each used
//	16+24·p  41·n   entries, in the order of their slots
//
// In version 2 every pack ID has 28 bytes: the domain, of 4, comes first. Packs are in the
// order of the domains' numbers.
//
// An entry:
//
//	offset  bytes  content
//	0       32     hash of the raw block, or of the page
//	32      4      offset of the encoded slot in its pack
//	36      4      length of the encoded slot, at least 1; offset + length is at most 2³²
//	40      1      index in the pack table
//
// Nothing follows the last entry. The form is canonical: one mapping (including places)
// has one encoding, hence one hash. A page has at most 4,176 bytes, in version 2 at most
// 4,432. One changed block publishes one page per level, at most 17,240 bytes for the 2²⁷
// blocks of 16 TiB (TestWorstCasePublish). In a volume that was imported in order, a
// mapped block costs about 43 bytes of pages.
//
// # Concurrency
//
// A Map is immutable and may be used by any number of goroutines. So may a PageCache and
// a Source. An Edit belongs to one goroutine. A PageCache has one lock per shard. It is
// held for a lookup in a Go map, and never while a page is loaded.
package blockmap
