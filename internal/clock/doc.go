// Package clock provides the host's clocks: pauses that end with a context, and a clock
// that is never set back.
package clock
