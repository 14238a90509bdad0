package readahead

import "sync/atomic"

// Credit limits what is fetched ahead for a guest by what that guest made use of. Each
// block that is fetched costs one, and each that is read then earns two. A guest that
// reads nothing of what was fetched for it soon gets nothing more. The zero value is
// ready for use, and all methods may be called concurrently.
type Credit struct{ balance atomic.Int64 } // in eighths of a block

// What blocks cost and earn.
const (
	blockCosts  = 8
	readEarns   = 2 * blockCosts
	nearbyEarns = 8 * blockCosts
	denseEarns  = 64 * blockCosts
	missEarns   = 1                // so that a guest which had no luck is tried again
	firstCredit = 8 * blockCosts   // before anything was read
	mostCredit  = 256 * blockCosts // that can be saved
)

// Take pays for one block, and reports whether there was credit for it.
func (c *Credit) Take() bool {
	if c.balance.Load()+firstCredit < blockCosts {
		return false
	}
	c.balance.Add(-blockCosts)
	return true
}

// Return takes back the payment for n blocks, which were not fetched after all.
func (c *Credit) Return(n int) { c.earn(int64(n) * blockCosts) }

// Used tells that a block was read that had been fetched ahead.
func (c *Credit) Used() { c.earn(readEarns) }

// missed tells that the guest had to wait for the store. dense is what neighbourhoods.missed
// returned.
func (c *Credit) missed(dense int) {
	switch {
	case dense == 0:
		c.earn(missEarns)
	case dense < manyDense:
		c.earn(nearbyEarns)
	default:
		c.earn(denseEarns)
	}
}

// saved returns how many blocks could be fetched with what was earned so far.
func (c *Credit) saved() int { return int(max(0, c.balance.Load()) / blockCosts) }

func (c *Credit) earn(n int64) {
	if c.balance.Add(n) > mostCredit {
		c.balance.Store(mostCredit)
	}
}
