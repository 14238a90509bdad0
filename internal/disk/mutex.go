package disk

// awaitable is a mutex that can be awaited in a select: sending to it locks it.
type awaitable chan struct{}

func newAwaitable() awaitable { return make(awaitable, 1) }

// Lock locks the mutex.
func (m awaitable) Lock() { m <- struct{}{} }

// Unlock unlocks it.
func (m awaitable) Unlock() { <-m }

// TryLock locks the mutex and returns true, unless it is locked already.
func (m awaitable) TryLock() bool {
	select {
	case m <- struct{}{}:
		return true
	default:
		return false
	}
}
