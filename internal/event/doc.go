// Package event keeps the events of a host since its daemon started, for users (glide
// events) and for programs that follow them.
package event
