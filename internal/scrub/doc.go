// Package scrub reads what a host and its store hold, before anybody needs it, and repairs
// what is damaged from any other good copy.
//
// On the host it checks the blocks of the SSD tier, the map pages in the metadata, and the
// log segments in use. A block or page that is damaged goes, and comes again from the
// store or another host. Of the log there is no second copy but what was published.
//
// In the store it walks what commits and pins reach, map pages once each, and reads every
// pack that they refer to, whole. What is damaged is taken from the tiers of this host or
// of another into a new pack, announced by a session's pin, and a forward leads there from
// the old one: references do not change. A second walk comes before any repair. It says
// which volumes need what is damaged, and what nothing needs any more is no damage: a
// collector may have deleted it meanwhile.
//
// A request that fails is an error, not damage. What nothing has a good copy of is lost.
package scrub
