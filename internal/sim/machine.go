package sim

import (
	"time"

	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/sim/hardware"
	"github.com/paraglide/glide/internal/sim/tenant"
)

// machine is a computer on which a host runs, and what the model knows about it. It
// implements hardware.World.
type machine struct {
	*hardware.Machine
	w     *world
	index int
	keys  *tenant.Provider // nil: its tenant is plain

	// Under world.mu.
	hadBadSync, rotten bool
	// lostPages: it shows what a failed sync gave up, until its power goes.
	lostPages bool
}

func newMachine(w *world, i int) *machine {
	m := &machine{w: w, index: i, keys: w.tenant.Provider()}
	m.Machine = hardware.New(hardware.Options{Index: i, Seed: w.seed, World: m, Store: w.store, Weather: &w.weather})
	return m
}

// ifAlive changes the model if that life is not over: what a host says after its
// crash was never heard.
func (m *machine) ifAlive(life int, change func()) bool {
	return m.IfAlive(life, func() {
		m.w.mu.Lock()
		defer m.w.mu.Unlock()
		change()
	})
}

func (m *machine) isRotten() (yes bool) {
	m.w.note(func(*world) { yes = m.rotten })
	return yes
}

// Config implements hardware.World.
func (m *machine) Config(life int) host.Config {
	p := &m.w.params
	c := host.Config{
		Advertise: string(rune('a' + m.index)),
		Memory:    p.memory, Cache: host.Share{Bytes: p.cache}, WALLimit: host.Share{Bytes: p.walLimit},
		DirtyBudget: p.dirtyBudget, PackBlocks: p.packBlocks, Compression: pack.CompressionNone,
		Dial:      func(addr, _ string) (host.Peer, error) { return peer{m, life, m.w.machines[addr[0]-'a']}, nil },
		FoldAfter: p.foldAfter, BulkBytes: p.bulk, RollAt: p.rollAt, Retention: p.retention,
	}
	if m.keys != nil {
		c.Keys = []keys.Provider{m.keys}
	}
	return c
}

// Opened implements hardware.World.
func (m *machine) Opened(h *host.Host, life int, err error) {
	switch {
	case err != nil && m.isRotten():
		m.w.trace("h%d: lost to rot: %v", m.index, hardware.Kind(err))
	case err != nil:
		m.w.violate(flushIsDurable, "host %d does not open again: %v", m.index, err)
	default:
		m.w.trace("h%d: life %d", m.index, life)
		m.w.restarted(m, h, life)
	}
}

// Began implements hardware.World.
func (m *machine) Began() { m.w.note(func(*world) { m.hadBadSync = false }) }

// SyncFailed implements hardware.World.
func (m *machine) SyncFailed() { m.w.note(func(*world) { m.hadBadSync, m.lostPages = true, true }) }

// Flipped implements hardware.World.
func (m *machine) Flipped() { m.w.note(func(w *world) { w.flipped++ }) }

// Created implements hardware.World.
func (m *machine) Created(key string, data []byte, life int) {
	m.w.created(key, data, sender{m.index, life})
}

// Replaced implements hardware.World.
func (m *machine) Replaced(key string, data []byte) { m.w.replaced(key, data) }

// Trace, Go, Later, Outage, Lost, Buried, Operation and Deleted implement hardware.World.
func (m *machine) Trace(format string, args ...any)                       { m.w.trace(format, args...) }
func (m *machine) Go(do func())                                           { m.w.background(do) }
func (m *machine) Later(what string, d time.Duration, apply func() error) { m.w.later(what, d, apply) }
func (m *machine) Outage() bool                                           { return m.w.outage() }
func (m *machine) Lost()                                                  { m.w.lost(m) }
func (m *machine) Buried()                                                { m.w.buried(m) }
func (m *machine) Operation(name string)                                  { m.w.spin(name) }
func (m *machine) Deleted(key string)                                     { m.w.deleted(key) }
