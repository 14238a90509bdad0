package hardware

import (
	"time"

	"github.com/paraglide/glide/internal/host"
)

// World is what is around one machine, and watches it.
type World interface {
	// Config is the configuration of a life of the host, without what the machine adds:
	// its files, its store, its clocks, its log and its source of randomness.
	Config(life int) host.Config
	// Trace notes what happened.
	Trace(format string, args ...any)
	// Go runs something beside everything else.
	Go(do func())
	// Later lets a request take effect long after its sender stopped waiting.
	Later(what string, d time.Duration, apply func() error)
	// Outage tells whether the store is out.
	Outage() bool

	// Began notes that a life begins: its host is about to be opened.
	Began()
	// Opened takes the host of a life that is not over, or why there is none.
	Opened(h *host.Host, life int, err error)
	// Lost notes that the power went, or that the host was stopped.
	Lost()
	// Buried notes that the disk went with the power. It comes after Lost.
	Buried()
	// Operation notes that the host is about to change a file. It need not return.
	Operation(name string)
	// SyncFailed notes that the disk could not write.
	SyncFailed()
	// Flipped notes that a request read something else than the store holds.
	Flipped()
	// Created notes that a request of that life created an object, when that takes effect.
	Created(key string, data []byte, life int)
	// Replaced notes that an object is about to be put, whatever was there.
	Replaced(key string, data []byte)
	// Deleted notes that a key is about to be removed from the store.
	Deleted(key string)
}
