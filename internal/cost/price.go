package cost

import (
	"time"

	"github.com/paraglide/glide/internal/objstore"
)

// Prices are what a store charges, in any currency. Zero is free.
type Prices struct {
	Put, Get, List, Delete float64 // for 1,000 requests; HEAD is a GET
	Stored                 float64 // for a GB (10⁹ bytes) and month
	Up, Down               float64 // for a GB
	HasList                bool    // without a price of LIST of its own, it costs what PUT does
}

// IsZero reports whether no price was given.
func (p Prices) IsZero() bool { return p == Prices{} }

// month is the time for which costs are computed.
const month = 30 * 24 * time.Hour

const gigabyte = 1e9

// PerMonth is what a month costs if requests go on as they did in the time in which they
// were counted, with stored bytes in the store all the time.
func (p Prices) PerMonth(c objstore.Counts, counted time.Duration, stored uint64) float64 {
	money := float64(stored) / gigabyte * p.Stored
	if counted > 0 {
		money += p.of(c) * (float64(month) / float64(counted))
	}
	return money
}

// of is what requests have cost.
func (p Prices) of(c objstore.Counts) float64 {
	list := p.List
	if !p.HasList {
		list = p.Put
	}
	requests := float64(c.Put)*p.Put + float64(c.Get+c.Head)*p.Get + float64(c.List)*list + float64(c.Delete)*p.Delete
	return requests/1000 + float64(c.BytesUp)/gigabyte*p.Up + float64(c.BytesDown)/gigabyte*p.Down
}
