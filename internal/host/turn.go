package host

// turn is a mutex whose holder may be waited for together with other things.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// Lock takes the turn; whoever selects on sending to it does the same.
func (t turn) Lock() { t <- struct{}{} }

// Unlock ends it.
func (t turn) Unlock() { <-t }

// TryLock takes the turn if nobody has it.
func (t turn) TryLock() bool {
	select {
	case t <- struct{}{}:
		return true
	default:
		return false
	}
}
