// Package pack is the format of packs: immutable objects that hold many encoded blocks
// and map pages. Each of those can be fetched with one ranged read and verified by
// itself. The package does no I/O.
//
// Packs of domain 0 are plain text, in version 1. Those of sealed domains are in version
// 2, and Codec has the keys. Where the versions differ, the second comes after ";".
//
// # Object
//
// All integers are little-endian. A pack is
//
//	header | data slots | page slots | index | trailer
//
// without gaps. It has at most 64 MiB and 65,536 slots. Its key is packs/<2
// hex>/<content>-<nonce>, in a domain other than 0 d/<domain>/packs/<2
// hex>/<content>-<nonce>. content is the beginning of the BLAKE3 of the hashes of the
// data slots, in order; of the HMAC of nonce and hashes, with a key of the domain. The nonce is unique to the upload. The identity depends only on
// the domain and the data slots, because map pages of the same pack refer to it: it must
// be known before they are encoded. The domain is in the key only. Integrity does not
// come from the identity but from the hash in each reference.
//
// The index is at the end because a pack is written as its blocks arrive. A read of a
// block does not need it, because a Ref has the place. It serves those who go through the
// whole pack: the collector, scrubbing, and the rebuilding of a dedup index.
//
// # Header, 16 bytes
//
//	off len
//	  0   8  magic "glidepak"
//	  8   4  version, 1; 2
//	 12   4  CRC32C of the bytes before
//
// # Slot, 24 bytes and its payload
//
//	off len
//	  0   1  magic, 0xB5
//	  1   1  version, 1; 2
//	  2   1  encoding: 0 raw, 1 zstd, 2 s2; 3 is set aside for a patch over a base block
//	  3   1  kind: 1 block, 2 map page
//	  4   1  length of the extension, e; 0 in version 1 (a patch will have its base's hash there)
//	  5   1  zero; the suite (see package seal)
//	  6   2  zero
//	  8   4  key: 0; the number of the root with which it is sealed
//	 12   4  raw length, 1 to 1 MiB
//	 16   4  payload length, p
//	 20   4  CRC32C of the 20 bytes before and of all bytes after
//	 24   e  extension
//	      p  payload: the raw bytes, encoded; nonce, what version 1 has here encrypted, tag
//
// The key of a sealed slot comes from the hash of the raw bytes, and the tag covers the
// header. Neither knows the pack: slots can be copied.
//
// The magic, the two lengths and the checksum have the same place in every version, so
// that damage can always be told from a newer format.
//
// # Index, 56 bytes for each slot in the order of the slots
//
//	off len
//	  0  32  hash of the raw bytes (keyed BLAKE3, see Hasher)
//	 32   4  offset in the object
//	 36   4  length of the slot
//	 40   4  raw length     ┐
//	 44   4  checksum       │ as in
//	 48   1  kind           │ the slot
//	 49   1  encoding       │
//	 50   2  zero           │
//	 52   4  key            ┘
//
// A sealed index is nonce, these entries encrypted, tag. Its key comes from the identity,
// and the tag covers the first 40 bytes of the trailer.
//
// # Trailer, the last 64 bytes
//
//	off len
//	  0   4  offset of the index
//	  4   4  length of the index
//	  8   4  data slots
//	 12   4  page slots
//	 16  12  identity: content
//	 28  12  identity: nonce
//	 40   4  CRC32C of the index
//	 44   4  zero; the number of the root with which the index is sealed
//	 48   4  version, 1; 2
//	 52   4  CRC32C of the bytes before
//	 56   8  magic "kapedilg"
//
// Trailers have this length, and their last 16 bytes this meaning, in every
// version.
package pack

import (
	"encoding/binary"
	"hash/crc32"
	"strconv"
)

// Limits and sizes of the format, in bytes unless stated otherwise.
const (
	// maxRawLen is the largest length of a block or map page. It is the largest block
	// size of a volume.
	maxRawLen = 1 << 20
	// maxSlots is the largest number of slots in a pack: enough for 64 MiB of 1 KiB
	// slots, with an index of at most 3.5 MiB.
	maxSlots = 1 << 16
	// MaxObject is the largest length of a pack. Every driver of objstore can store it.
	MaxObject = 64 << 20

	HeaderLen     = 16
	SlotHeaderLen = 24
	entryLen      = 56
	trailerLen    = 64
	// maxSlotLen is the largest length of a slot without an extension.
	maxSlotLen = SlotHeaderLen + maxRawLen
)

const (
	version       = 1
	versionSealed = 2
	slotMagic     = 0xB5
	headerMagic   = "glidepak"
	trailerMagic  = "kapedilg"
)

// Kind is what a slot holds.
type Kind uint8

// The kinds of slots.
const (
	KindBlock Kind = 1
	KindPage  Kind = 2
)

// String returns the kind in words.
func (k Kind) String() string {
	switch k {
	case KindBlock:
		return "block"
	case KindPage:
		return "page"
	}
	return "kind " + strconv.Itoa(int(k))
}

// Encoding says how a slot's payload encodes the raw bytes.
type Encoding uint8

// The encodings.
const (
	EncodingRaw  Encoding = 0
	EncodingZstd Encoding = 1
	EncodingS2   Encoding = 2
)

// String returns the encoding in words.
func (e Encoding) String() string {
	switch e {
	case EncodingRaw:
		return "raw"
	case EncodingZstd:
		return "zstd"
	case EncodingS2:
		return "s2"
	}
	return "encoding " + strconv.Itoa(int(e))
}

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

func checksum(data []byte) uint32 { return crc32.Checksum(data, castagnoli) }
