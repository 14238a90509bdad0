// Package locks holds what the check must find, and what it must leave alone.
package locks

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/paraglide/glide/internal/objstore"
)

type table struct {
	// mu guards the rest.
	//
	// glide:nonblocking
	mu    sync.Mutex
	slow  sync.Mutex   // held over requests
	state sync.RWMutex // glide:nonblocking

	cond  *sync.Cond
	other *sync.Cond
	store objstore.Store
	ch    chan int
	wg    sync.WaitGroup
	// save writes to the disk.
	//
	// glide:blocks
	save  func()
	quick func()
	file  *os.File
}

type disk interface {
	// Write waits for the disk.
	//
	// glide:blocks
	Write()
	Size() int
}

type noMutex struct {
	// glide:nonblocking
	n int // want `n is marked glide:nonblocking and is no mutex`
}

func newTable() *table {
	t := &table{other: sync.NewCond(&sync.Mutex{})}
	t.cond = sync.NewCond(&t.mu)
	return t
}

func (t *table) direct(ctx context.Context, d disk) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _ = t.store.Get(ctx, "x") // want `objstore.Store.Get may block while locks.table.mu is held`
	_ = t.store.Close()          // want `io.Closer.Close may block`
	time.Sleep(1)                // want `time.Sleep may block`
	<-t.ch                       // want `a receive from a channel may block`
	t.ch <- 1                    // want `a send to a channel may block`
	t.wg.Wait()                  // want `sync.WaitGroup.Wait may block`
	_ = t.file.Sync()            // want `os.File.Sync may block`
	t.save()                     // want `save may block`
	d.Write()                    // want `Write > Write may block`
	t.slow.Lock()                // want `a wait for the lock locks.table.slow`
	t.slow.Unlock()
	objstore.Twice(ctx, t.store) // want `Twice > objstore.Store.Get may block`
	for range t.ch {             // want `a receive from a channel`
	}
	select { // want `a select without a default may block`
	case <-t.ch:
	case <-ctx.Done():
	}
}

func (t *table) allowed(d disk) {
	t.mu.Lock()
	select {
	case v := <-t.ch:
		_ = v
	default:
	}
	t.quick()
	_ = d.Size()
	_ = t.file.Name()
	t.cond.Wait()
	t.cond.Broadcast()
	t.state.RLock()
	t.state.RUnlock()
	go func() { <-t.ch }()
	time.AfterFunc(1, func() { <-t.ch })
	t.mu.Unlock()
	<-t.ch
	t.slow.Lock()
	<-t.ch
	t.slow.Unlock()
}

func (t *table) wrongCond() {
	t.mu.Lock()
	t.other.Wait() // want `sync.Cond.Wait may block`
	t.mu.Unlock()
}

func (t *table) branches(done bool) {
	t.mu.Lock()
	if done {
		t.mu.Unlock()
		<-t.ch
		return
	}
	for i := 0; ; i++ {
		if i > 3 {
			break
		}
		if i == 2 {
			t.mu.Unlock()
			<-t.ch
			t.mu.Lock()
		}
	}
	switch {
	case done:
		t.mu.Unlock()
	default:
		panic("x")
	}
	<-t.ch
}

func (t *table) notOnEveryWay(done bool) {
	t.mu.Lock()
	if done {
		t.mu.Unlock()
	}
	<-t.ch // want `a receive`
}

func (t *table) loops() {
	for range 3 {
		<-t.ch // want `a receive`
		t.mu.Lock()
	}
}

func (t *table) tries() {
	if !t.mu.TryLock() {
		<-t.ch
		return
	}
	<-t.ch // want `a receive`
	t.mu.Unlock()
	if t.mu.TryLock() {
		<-t.ch // want `a receive`
		t.mu.Unlock()
	}
	<-t.ch
}

func (t *table) deep() { t.deeper(3) }

func (t *table) deeper(n int) {
	if n == 0 {
		<-t.ch
	}
	t.deeper(n - 1)
}

func each(fn func(int)) { fn(1) }

func (t *table) calls() {
	t.state.RLock()
	defer t.state.RUnlock()
	t.deep()                   // want `deep > deeper > a receive from a channel may block while locks.table.state is held`
	each(func(int) { <-t.ch }) // want `a receive`
	func() { time.Sleep(1) }() // want `time.Sleep`
	defer func() { <-t.ch }()  // want `a receive`
	f := func() { <-t.ch }
	_ = f
}

// wait releases mu while it waits, so it may be called under it, but not under
// another lock.
func (t *table) wait() {
	t.mu.Unlock()
	<-t.ch
	t.mu.Lock()
}

func (t *table) callsWait() {
	t.mu.Lock()
	t.wait()
	t.state.Lock()
	t.wait() // want `wait > a receive from a channel may block while locks.table.state is held`
	t.state.Unlock()
	t.mu.Unlock()
}

var global sync.Mutex // glide:nonblocking

func globals(ch chan int) {
	global.Lock()
	<-ch // want `while locks.global is held`
	global.Unlock()
}
