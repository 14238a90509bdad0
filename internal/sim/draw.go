package sim

import (
	"math"
	"math/rand/v2"
	"time"
)

// draw makes a number of a seed and of what it is for. Nothing in a simulation
// draws from a stream that is shared: what is decided about one request must not
// depend on which others were made, or the steps that are taken out of a
// schedule would change the fate of those that stay.
func draw(seed uint64, what string, n ...uint64) uint64 {
	h := seed ^ 0xcbf29ce484222325
	for i := range len(what) {
		h = (h ^ uint64(what[i])) * 0x100000001b3
	}
	for _, x := range n {
		h = scatter(h ^ x*0x9e3779b97f4a7c15)
	}
	return scatter(h)
}

func scatter(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// dice are the numbers of one decision, taken one after another.
type dice struct{ h uint64 }

func (d *dice) next() uint64 {
	d.h = scatter(d.h)
	return d.h
}

// n is a number below n.
func (d *dice) n(n int) int { return int(d.next() % uint64(n)) }

// chance is true for so many in a thousand.
func (d *dice) chance(permille int) bool { return d.n(1000) < permille }

// around is a duration of the given mean, most of them shorter, some much longer.
func (d *dice) around(mean time.Duration) time.Duration {
	u := float64(d.next()>>11+1) / (1 << 53)
	return time.Duration(-math.Log(u)*float64(mean)) + 1
}

// entropy is the source of random bytes of one life of a host.
func entropy(seed uint64) *rand.ChaCha8 {
	var key [32]byte
	d := dice{seed}
	for i := range key {
		key[i] = byte(d.next())
	}
	return rand.NewChaCha8(key)
}
