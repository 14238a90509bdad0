// Package event keeps what happened on a host since its daemon started: for people
// (glide events), and for programs that follow.
package event
