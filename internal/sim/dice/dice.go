package dice

import (
	"math"
	"math/rand/v2"
	"time"
)

// Draw makes a number of a seed and of what it is for.
func Draw(seed uint64, what string, n ...uint64) uint64 {
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

// Dice are the numbers of one decision, taken one after another.
type Dice struct{ h uint64 }

// New returns the dice of a seed and of what they are for.
func New(seed uint64, what string, n ...uint64) Dice { return Dice{Draw(seed, what, n...)} }

// Next is a number.
func (d *Dice) Next() uint64 {
	d.h = scatter(d.h)
	return d.h
}

// N is a number below n.
func (d *Dice) N(n int) int { return int(d.Next() % uint64(n)) }

// Chance is true for so many in a thousand.
func (d *Dice) Chance(permille int) bool { return d.N(1000) < permille }

// Around is a duration of the given mean, most of them shorter, some much longer.
func (d *Dice) Around(mean time.Duration) time.Duration {
	u := float64(d.Next()>>11+1) / (1 << 53)
	return time.Duration(-math.Log(u)*float64(mean)) + 1
}

// Entropy is the source of random bytes of what n says, such as one life of a host.
func Entropy(seed uint64, n ...uint64) *rand.ChaCha8 {
	var key [32]byte
	d := New(seed, "entropy", n...)
	for i := range key {
		key[i] = byte(d.Next())
	}
	return rand.NewChaCha8(key)
}
