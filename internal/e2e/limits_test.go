package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/paraglide/glide/nbd"
	"github.com/paraglide/glide/nbd/nbdclient"
)

// flood is a load that a test lets loose on a volume.
type flood struct {
	op    nbd.Op
	size  int
	depth int // requests under way on each connection
	conns int
}

func (f flood) String() string {
	return fmt.Sprintf("%v of %d KiB, depth %d, %d connections", f.op, f.size>>10, f.depth, f.conns)
}

// loose runs the flood over the first 64 MiB of a volume until stop is closed, and returns
// when each request was answered.
func (d *daemon) loose(f flood, export string, stop <-chan struct{}) (answered []time.Time) {
	d.tb.Helper()
	return d.paced(f, export, stop, func() {})
}

// paced is loose by a client that calls pace before each request.
func (d *daemon) paced(f flood, export string, stop <-chan struct{}, pace func()) (answered []time.Time) {
	d.tb.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range f.conns {
		c, err := nbdclient.Dial(context.Background(), "unix", d.nbd(), nbdclient.Options{Export: export})
		must(d.tb, err)
		defer c.Close()
		for j := range f.depth {
			wg.Go(func() {
				b := make([]byte, f.size)
				for at := (i*f.depth + j) * f.size; ; at += f.conns * f.depth * f.size {
					q := nbdclient.Request{Op: f.op, Off: uint64(at % (64 << 20)), Data: b}
					if f.op == nbd.OpFlush {
						q.Data = nil
					}
					pace()
					ch := c.Go(q)
					select {
					case r := <-ch:
						if r.Err != nil {
							d.tb.Errorf("%v: %v", f, r.Err)
							return
						}
					case <-stop:
						return
					}
					now := time.Now()
					mu.Lock()
					answered = append(answered, now)
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return answered
}

// within5 checks that a load keeps to a limit of so many requests a second, and gets what
// the limit allows, or if that is less, what a client that keeps to the rate by itself gets of
// a busy machine at that time. Whole requests are counted, so one more or less does not matter,
// and those that are answered when the clock stops may be off by one for each connection.
func within5(answered []time.Time, began time.Time, seconds, rate float64, peer func() float64) error {
	var n float64
	for _, a := range answered {
		if at := a.Sub(began).Seconds(); at >= 0 && at < seconds {
			n++
		}
	}
	slack := 0.05*rate*seconds + 1
	if over := n - rate*seconds; over > slack || -over > slack && n < 0.95*peer()*seconds-1 {
		return fmt.Errorf("%.1f requests a second, the limit is %.1f", n/seconds, rate)
	}
	return nil
}

// TestLimitsHold measures at the socket that a limit holds within 5 %, over a second.
func TestLimitsHold(t *testing.T) {
	d := newDaemon(t, "")
	d.start()
	d.do("create", "v", "--size", "1G")
	d.write("v", pattern(32<<20, 1), 0)
	d.write("v", pattern(32<<20, 2), 32<<20)
	for _, c := range []struct {
		setting string
		value   uint64
		flood   flood
	}{
		{"iops", 20, flood{nbd.OpWrite, 4 << 10, 32, 1}},
		{"iops", 20, flood{nbd.OpRead, 4 << 10, 1, 1}},
		{"iops", 500, flood{nbd.OpWrite, 4 << 10, 1, 1}},
		{"iops", 500, flood{nbd.OpRead, 4 << 10, 32, 3}},
		{"iops", 100, flood{nbd.OpWrite, 1 << 20, 2, 1}},
		{"iops", 5000, flood{nbd.OpRead, 4 << 10, 1, 1}},
		{"iops", 10000, flood{nbd.OpWrite, 4 << 10, 32, 1}},
		{"iops", 10000, flood{nbd.OpRead, 4 << 10, 32, 2}},
		{"bandwidth", 1 << 20, flood{nbd.OpWrite, 4 << 10, 32, 1}},
		{"bandwidth", 1 << 20, flood{nbd.OpRead, 4 << 10, 1, 1}},
		{"bandwidth", 50 << 20, flood{nbd.OpRead, 1 << 20, 32, 1}},
		{"bandwidth", 50 << 20, flood{nbd.OpWrite, 1 << 20, 1, 1}},
		{"bandwidth", 50 << 20, flood{nbd.OpWrite, 4 << 10, 32, 2}},
		{"bandwidth", 200 << 20, flood{nbd.OpRead, 1 << 20, 1, 4}},
	} {
		t.Run(fmt.Sprintf("%s=%d/%v", c.setting, c.value, c.flood), func(t *testing.T) {
			rate := float64(c.value)
			if c.setting == "bandwidth" {
				rate /= float64(c.flood.size)
			}
			attempts(t, func() bool {
				after := func(long time.Duration) <-chan struct{} {
					stop := make(chan struct{})
					time.AfterFunc(long, func() { close(stop) })
					return stop
				}
				peer := func() float64 {
					d.do("set", "v", "iops=0", "bandwidth=0")
					var sent atomic.Int64
					began := time.Now()
					return float64(len(d.paced(c.flood, "v", after(time.Second), func() {
						time.Sleep(time.Until(began.Add(time.Duration(float64(sent.Add(1)-1) / rate * float64(time.Second)))))
					})))
				}
				d.do("set", "v", "iops=0", "bandwidth=0")
				d.do("set", "v", fmt.Sprintf("%s=%d", c.setting, c.value))
				began := time.Now()
				answered := d.loose(c.flood, "v", after(1700*time.Millisecond))
				err := within5(answered, began, 1, rate, peer)
				if late := within5(answered, began.Add(600*time.Millisecond), 1, rate, peer); err == nil && late != nil {
					err = fmt.Errorf("later: %w", late)
				}
				if err != nil {
					t.Log(err)
				}
				d.do("set", "v", "iops=0", "bandwidth=0")
				return err == nil
			})
		})
	}
}

// A limit that is nothing, negative or absurd is refused, or harms nobody.
func TestAbsurdLimits(t *testing.T) {
	t.Parallel()
	d := newDaemon(t, "")
	d.start()
	d.do("create", "v", "--size", "64M")
	for _, key := range []string{"iops", "bandwidth"} {
		for _, bad := range []string{"-1", "-0.5", "1.5", "many", "", "99999999999999999999999", "NaN", "1e3"} {
			if r := d.try("set", "v", key+"="+bad); r.Code != 2 || strings.Count(r.Err, "\n") > 2 {
				t.Errorf("%s=%s: exit %d: %s", key, bad, r.Code, r.Err)
			}
		}
	}
	data := pattern(1<<20, 1)
	for _, none := range []string{"iops=0", "bandwidth=0", "iops=9223372036854775807", "bandwidth=9223372036854775807"} {
		d.do("set", "v", none)
		began := time.Now()
		d.write("v", data, 0)
		d.holds("v", data, 0)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("with %s, a write and a read of 1 MiB take %v", none, took)
		}
	}
	// The smallest limits stop the guest for long, but neither other volumes, nor the
	// verb that lifts them, nor the end of the daemon.
	d.do("create", "other", "--size", "64M")
	for range 2 {
		d.do("set", "v", "iops=1", "bandwidth=1")
		c := d.dial("v")
		var waiting []<-chan nbdclient.Result
		for i := range 12 { // few enough for the socket, since the server reads no more while they wait
			waiting = append(waiting, c.Go(nbdclient.Request{Op: nbd.OpWrite, Off: uint64(i) * page, Data: data[:page]}))
			waiting = append(waiting, c.Go(nbdclient.Request{Op: nbd.OpRead, Off: uint64(i) * page, Data: make([]byte, page)}))
		}
		d.write("other", data, 0)
		d.holds("other", data, 0)
		d.do("set", "v", "iops=0", "bandwidth=0")
		for _, w := range waiting {
			must(t, resultIn(t, w, 5*time.Second))
		}
		must(t, c.Close())
	}
	d.do("set", "v", "bandwidth=1")
	c := d.dial("v")
	first := c.Go(nbdclient.Request{Op: nbd.OpWrite, Data: data})
	second := c.Go(nbdclient.Request{Op: nbd.OpWrite, Data: data})
	must(t, resultIn(t, first, 5*time.Second))
	time.Sleep(500 * time.Millisecond) // the second has been received now, and waits
	began := time.Now()
	d.stop()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the daemon took %v to stop, with a request that waits for a limit", took)
	}
	must(t, resultIn(t, second, time.Second)) // the daemon ends requests that it has received
}
