package disk

// mutex is a mutex whose holder may be waited for together with other things.
type mutex chan struct{}

func newMutex() mutex { return make(mutex, 1) }

// Lock takes the turn; whoever selects on sending to it does the same.
func (t mutex) Lock() { t <- struct{}{} }

// Unlock ends it.
func (t mutex) Unlock() { <-t }

// TryLock takes the turn if nobody has it.
func (t mutex) TryLock() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}
