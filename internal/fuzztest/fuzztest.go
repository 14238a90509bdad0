// Package fuzztest has what the fuzz targets of all decoders assert: bytes that
// nobody vouches for cost no more memory and time than bytes of their number may.
package fuzztest

import (
	"runtime"
	"testing"
	"time"
)

// slow is longer than any decoder takes on a busy machine for an input of the
// sizes that the fuzzer makes: what takes that long hangs.
const slow = 10 * time.Second

// noise is what the runtime and the fuzzer's own goroutines may allocate meanwhile, bytes.
const noise = 256 << 10

// tries is how often an input that seems to cost too much is tried again: what other
// goroutines of the process allocate meanwhile is counted, too, and comes and goes;
// what a decoder allocates does not.
const tries = 3

// Bound runs decode, whose input has n bytes, and fails the test if it
// allocates more than fixed + times*n bytes altogether each time that it is run, or
// hangs. fixed is for what does not depend on the input, such as a coder's window; the
// caller says where times comes from.
func Bound(tb testing.TB, n int, fixed, times uint64, decode func()) {
	tb.Helper()
	most := noise + fixed + times*uint64(n)
	got, took := measure(decode)
	for range tries {
		if got <= most {
			break
		}
		again, _ := measure(decode)
		got = min(got, again)
	}
	if got > most {
		tb.Errorf("an input of %d bytes made the decoder allocate %d, at most %d are allowed", n, got, most)
	}
	if took > slow {
		tb.Errorf("an input of %d bytes kept the decoder busy for %v", n, took)
	}
}

// measure runs decode and returns the bytes that the process allocated meanwhile, and the time.
func measure(decode func()) (allocated uint64, took time.Duration) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	decode()
	took = time.Since(began)
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, took
}
