// Package seal encrypts what leaves the process: slots and indexes of packs, sections of
// commits, and what the host's own SSD holds. It has the derivations of keys and the
// ciphers, and no format of its own beside the head of a section: packages pack,
// commitlog, wal, cache and meta say where sealed bytes stand. Keyrings, which hold the
// roots, are package keys'.
//
// # Derivations
//
// Integers are little-endian, as in all formats of Glide. "‖" is concatenation.
//
//	label key  = HKDF-SHA256-Expand(secret, "glide/1/" ‖ label ‖ domain u32, 32 bytes)
//	object key = HMAC-SHA256(label key, salt)
//
//	label            secret           salt
//	block            root n           id of the block, 32 bytes
//	page             root n           id of the map page, 32 bytes
//	index            root n           content ‖ nonce of the pack, 24 bytes
//	state, data      root n           16 random bytes, in the section's head
//	local ‖ host ID  root n           "slab" ‖ salt of the slab 16 · "meta" ‖ key · "wal" ‖ incarnation u64 ‖ number u32 ‖ writer 16
//	hash             conv             none: the label key is the key of BLAKE3 for ids
//	name             name             none: the label key is the key of HMAC for hidden names
//
// Package keys derives with labels of its own: header, body and wrap.
//
// The words before the salts of local keys keep an AES-CTR key of a log segment apart from
// every AES-GCM key: without them, a key and a length that agree would agree.
//
// # Suites
//
//	1  AES-256-GCM         nonce 12 ‖ ciphertext ‖ tag 16
//	2  XChaCha20-Poly1305  nonce 24 ‖ ciphertext ‖ tag 16
//
// Log records are AES-256-CTR in both suites: they have a checksum and no tag.
//
// # Additional data
//
//	slot     "slot" ‖ domain u32 ‖ bytes 0 to 19 of its header
//	index    bytes 0 to 39 of the pack's trailer
//	section  "state" or "data" ‖ object key of the commit ‖ bytes 0 to 51 of its header
//	slab     "slab" ‖ id ‖ domain u32 ‖ host ID ‖ number of the page u32
//	meta     "meta" ‖ key ‖ domain u32 ‖ host ID
//
// A section begins with 24 bytes: number of the root u32, suite u8, three zero bytes, salt 16.
//
// # Guarantees
//
//   - fresh-nonce: nonces, initialization vectors and keys come from crypto/rand or from
//     the standard library's own generator, never from a generator that was handed in: a
//     simulator's repeats itself.
//   - A Domain seals with its current root only, and says which one that is.
//   - open-then-parse: what Open returns was sealed with the domain's keys; on an error
//     there are no bytes.
//   - Secrets are not printed: every type that holds one prints "[secret]".
//   - no-downgrade is the callers': bytes that should be sealed and are not never come here.
//
// A Domain never changes: a rotation makes another one. All methods may be called
// concurrently.
package seal
