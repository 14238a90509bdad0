// Package keys is keyrings: the objects under keys/ in the store that hold the secrets of
// domains, and the providers without which nobody opens them. docs/formats/keyring.md
// has the bytes.
//
// A keyring is immutable. A change makes the next number, if absent; of two changes at once
// one wins, and the other reads it and tries again. The greatest number is in force.
//
// Every keyring has a key of its own, the KEK, which each provider wraps once. A
// provider is a KMS, a Vault, a recipient of age, a key in a file, or a passphrase. None
// of them sees the secrets.
//
// # Guarantees
//
//   - open-then-parse: nothing of a body is used before the MAC over all before it, and its
//     own tag, are right. What is parsed before that, to get at the KEK, is bounded.
//   - no-old-keyring: who says which keyring was seen last is never given an older one, and
//     neither another one under the same number.
//   - domains-apart: a keyring is of the domain in its key and of the tenant that was asked for.
//   - locked-is-not-lost: a domain that does not open is one of four errors, all of kind
//     errs.Unavailable, so that who looks no closer waits. None is errs.NotFound: a locked
//     domain must not be taken for an empty one.
//   - Secrets are not printed; no error has any, nor what somebody mistook for a path.
//
// There are no locks: a Ring never changes, and Keyrings may be used concurrently.
package keys
