// Package gc collects garbage in the object store: packs that nothing refers to, commits
// past retention, what removed volumes and crashed uploads left behind. Guests, forks and
// flushes go on meanwhile. docs/protocols.md has the rules ("Collecting garbage"), and the
// schedules that break shorter ones.
//
// A round is: list, mark, flag, mark again, verdict, delete, close. It lives in the store,
// so that any process can go on with it:
//
//	gc/rounds/<domain>/<number>/flags    what seemed garbage; created if absent
//	gc/rounds/<domain>/<number>/verdict  what of it is not; created if absent
//	gc/rounds/<domain>/<number>/closed   everything else is gone
//
// docs/formats/gc.md has the bytes. operator.go is for people: what is flagged, and how it
// is taken back.
//
// Invariants:
//
//	reachable-is-kept  a pack is deleted only if a mark that began after its flag found no
//	                   reference to it. Hosts refuse to refer to what is flagged.
//	no-reprieve        what a verdict condemns is deleted, whatever comes later.
//	commits-first      packs that a collected commit named are flagged in a later round.
//
// Nothing here is locked over I/O. Two collectors do no harm: objects are created if
// absent, and whoever comes second goes on with the first one's.
package gc
