package latency

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/nbd"
)

// histogram counts durations from 1 ns to hours, in buckets that are a sixteenth of an
// octave wide. Quantiles are therefore exact to about 6 %. Add costs one atomic addition,
// plus one more operation for a new maximum.
type histogram struct {
	buckets [64 * subBuckets]atomic.Uint64
	max     atomic.Int64
}

const (
	subBits    = 4
	subBuckets = 1 << subBits
)

func bucketOf(d time.Duration) int {
	n := uint64(max(d, 1))
	e := bits.Len64(n) - 1
	if e < subBits {
		return int(n)
	}
	return (e-subBits+1)*subBuckets + int(n>>(e-subBits))&(subBuckets-1)
}

// lowerEdge returns the shortest duration of a bucket.
func lowerEdge(b int) time.Duration {
	if b < subBuckets {
		return time.Duration(b)
	}
	e := b/subBuckets + subBits - 1
	return time.Duration(uint64(subBuckets+b%subBuckets) << (e - subBits))
}

// Add counts one duration.
func (h *histogram) Add(d time.Duration) {
	h.buckets[bucketOf(d)].Add(1)
	for {
		m := h.max.Load()
		if int64(d) <= m || h.max.CompareAndSwap(m, int64(d)) {
			return
		}
	}
}

// summary returns the distribution in microseconds.
func (h *histogram) summary() api.Latency {
	var counts [64 * subBuckets]uint64
	var total uint64
	for i := range h.buckets {
		counts[i] = h.buckets[i].Load()
		total += counts[i]
	}
	quantile := func(q float64) float64 {
		want := uint64(q * float64(total))
		var seen uint64
		for i, n := range counts {
			if seen += n; n > 0 && seen > want {
				return min(float64(lowerEdge(i+1)), float64(h.max.Load())) / 1e3
			}
		}
		return float64(h.max.Load()) / 1e3
	}
	if total == 0 {
		return api.Latency{}
	}
	return api.Latency{Count: total, P50: quantile(.5), P99: quantile(.99), P999: quantile(.999), Max: float64(h.max.Load()) / 1e3}
}

// ByOp holds one histogram per kind of request.
type ByOp struct {
	read, write, flush, trim, zero, other histogram

	served atomic.Uint64
}

// Served is how many requests Of was called for.
func (l *ByOp) Served() uint64 { return l.served.Load() }

// Of returns the histogram for a request of a kind.
func (l *ByOp) Of(op nbd.Op) *histogram {
	l.served.Add(1)
	switch op {
	case nbd.OpRead:
		return &l.read
	case nbd.OpWrite:
		return &l.write
	case nbd.OpFlush:
		return &l.flush
	case nbd.OpTrim:
		return &l.trim
	case nbd.OpZero:
		return &l.zero
	}
	return &l.other
}

// Summaries returns the distributions under the API's names for the kinds.
func (l *ByOp) Summaries() map[string]api.Latency {
	return map[string]api.Latency{
		"read": l.read.summary(), "write": l.write.summary(), "flush": l.flush.summary(),
		"trim": l.trim.summary(), "zero": l.zero.summary(),
	}
}
