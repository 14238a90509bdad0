package sim

import (
	"context"
	"fmt"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/keys"
	"github.com/paraglide/glide/internal/sim/dice"
	"github.com/paraglide/glide/internal/sim/hardware"
	"github.com/paraglide/glide/internal/sim/tenant"
)

// The tenant is sealed in one seed of four, and of its volumes one of three is isolated, in
// half of those seeds. Hosts have their ways to the keys, which fail for a while, and any host
// begins a new root. Other seeds have the schedules that they would have without keys.

// tenantName is the tenant of all volumes.
const tenantName = "default"

// locksUp and rotate are steps of seeds with keys.
var (
	locksUp = op{name: "lock up", run: (*world).lockUp}
	rotate  = op{name: "rotate", run: (*world).rotate}
)

func chooseSealed(seed uint64) bool { return dice.Draw(seed, "sealed")%4 == 0 }

// sealTenant makes the tenant, with keys.
func (w *world) sealTenant() *tenant.Tenant {
	t, err := tenant.Seal(w.store, tenantName)
	if err != nil {
		panic(fmt.Sprintf("the tenant of a simulation: %v", err))
	}
	return t
}

// turnsKeys returns the step about keys that takes the place of another.
func (w *world) turnsKeys(step int) *op {
	switch x := dice.Draw(w.seed, "keys", uint64(step)) % 64; {
	case !w.params.sealed || x >= 6:
		return nil
	case x < 3:
		return &rotate
	}
	return &locksUp
}

// lockUp takes the keys from a host that begins a life soon: its provider is away, or
// refuses. Most often the power goes meanwhile, as those that run keep the keys.
func (w *world) lockUp(d *dice.Dice) string {
	m := w.someMachine(d)
	why, res := keys.ErrAway, "away"
	if d.Chance(500) {
		why, res = keys.ErrDenied, "denied"
	}
	m.keys.Trouble(why, stretch(d))
	w.note(func(w *world) { w.troubled = true })
	if d.Chance(700) {
		m.Crash(0, []int{0, 50, 100}[d.N(3)], d.Around(20*time.Millisecond))
	}
	return res
}

// keysBack ends the troubles of the machine's provider.
func (m *machine) keysBack() {
	if m.keys != nil {
		m.keys.Trouble(nil, 0)
	}
}

// rotate begins a new root of the tenant.
func (w *world) rotate(d *dice.Dice) string {
	m := w.someMachine(d)
	u := m.Use()
	defer u.End()
	if u.Host == nil {
		return "down"
	}
	ctx, cancel := context.WithTimeout(u.Ctx, verbTime)
	defer cancel()
	name := tenantName
	w.note(func(w *world) { // or one of the isolated domains
		for _, n := range sortedKeys(w.logs) {
			if e := w.logs[n].newest(); e != nil && !e.Bare() && e.State.Isolated != 0 && d.Chance(300) {
				name = e.State.DomainName()
			}
		}
	})
	_, err := u.Host.Custody().RotateTenant(ctx, name, api.RotateRequest{Conv: d.Chance(300)})
	if err != nil && m.Alive(u.Life) && !w.mayRefuse(err) {
		w.violate(progress, "host %d cannot rotate the keys, without a reason: %v", m.index, err)
	}
	return hardware.Kind(err)
}

// isolates tells whether a line that is to be created is isolated.
func (w *world) isolates(l *line) bool {
	return w.params.sealed && dice.Draw(w.seed, "isolates")%2 == 0 && dice.Draw(w.seed, "isolated", uint64(l.index))%3 == 0
}

// keysNeed is how many more requests a fork may make for keys: the record, the list of
// keyrings and the newest of them, and if that is from before a rotation, both again; of an
// isolated volume all that twice.
func (w *world) keysNeed(isolated uint32) uint64 {
	switch {
	case !w.params.sealed:
		return 0
	case isolated != 0:
		return 10
	}
	return 5
}

// checkSealed checks what a host sends to the store. Under mu. sealed-home.
func (w *world) checkSealed(key string, data []byte) {
	if err := w.tenant.Exposed(key, data); err != nil {
		w.violateLocked(sealedHome, "%s is sent, and %v", key, err)
	}
}
