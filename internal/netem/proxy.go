// Package netem is a TCP proxy that makes a network slow or cuts it, for tests
// and measurements: what goes through it arrives later, whole and in order. All
// its connections share one link, which carries so many bytes a second each way.
package netem

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy forwards connections to one address. All methods may be called
// concurrently.
type Proxy struct {
	l      net.Listener
	target string
	delay  atomic.Int64
	rate   atomic.Int64 // bytes a second; 0: any
	down   link         // from the target
	up     link

	mu     sync.Mutex
	healed sync.Cond
	cut    bool
	closed bool
	conns  map[net.Conn]struct{}
	wg     sync.WaitGroup
}

// Listen starts a proxy to the target on a free port of the loopback interface.
func Listen(target string) (*Proxy, error) { return ListenAt("127.0.0.1:0", target) }

// ListenAt is Listen on an address.
func ListenAt(addr, target string) (*Proxy, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	p := &Proxy{l: l, target: target, conns: map[net.Conn]struct{}{}}
	p.healed.L = &p.mu
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where the proxy listens.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Delay makes everything take so much longer, each way.
func (p *Proxy) Delay(each time.Duration) { p.delay.Store(int64(each)) }

// Rate makes the link carry at most so many bytes a second, each way; 0: any number.
func (p *Proxy) Rate(bytes int64) { p.rate.Store(bytes) }

// link is one direction.
type link struct {
	mu   sync.Mutex
	free time.Time // when all that was sent has passed
}

// pass returns when n bytes that come now have passed.
func (l *link) pass(n int, rate int64) time.Time {
	now := time.Now()
	if rate == 0 {
		return now
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(rate))
	return l.free
}

// Cut holds everything up, silently, as a cut link does; Cut(false) heals it.
func (p *Proxy) Cut(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	p.healed.Broadcast()
}

// Reset breaks the open connections.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.healed.Broadcast()
	p.mu.Unlock()
	_ = p.l.Close()
	p.Reset()
	p.wg.Wait()
}

func (p *Proxy) accept() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(in) })
	}
}

func (p *Proxy) serve(in net.Conn) {
	defer func() { _ = in.Close() }()
	out, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	if !p.track(in, out) {
		return
	}
	defer p.untrack(in, out)
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(out, in, &p.up) })
	wg.Go(func() { p.pump(in, out, &p.down) })
	wg.Wait()
}

func (p *Proxy) track(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.conns[c] = struct{}{}
	}
	return !p.closed
}

func (p *Proxy) untrack(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.conns, c)
	}
}

// delayed is bytes, and when they are to arrive.
type delayed struct {
	b  []byte
	at time.Time
}

// pump copies one direction, each piece a delay later than it has passed the link.
func (p *Proxy) pump(dst, src net.Conn, l *link) {
	way := make(chan delayed, 1024)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(way)
		for {
			b := make([]byte, 64<<10)
			n, err := src.Read(b)
			if n > 0 {
				way <- delayed{b[:n], l.pass(n, p.rate.Load()).Add(time.Duration(p.delay.Load()))}
			}
			if err != nil {
				return
			}
		}
	})
	for q := range way {
		time.Sleep(time.Until(q.at))
		p.mu.Lock()
		for p.cut && !p.closed {
			p.healed.Wait()
		}
		p.mu.Unlock()
		if _, err := dst.Write(q.b); err != nil {
			break
		}
	}
	// Nothing more will be read there, or can be written here.
	_ = src.Close()
	_ = dst.Close()
	for range way {
	}
	wg.Wait()
}
