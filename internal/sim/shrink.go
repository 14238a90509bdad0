package sim

// shrinkSteps looks for fewer steps of a schedule that still fail: it takes out ever
// smaller stretches, and goes on for as long as that works. fails runs a schedule
// and tells whether it violates what the whole one violated.
func shrinkSteps(steps []int, fails func([]int) bool) []int {
	for size := len(steps) / 2; size > 0; {
		shorter := false
		for at := 0; at < len(steps); {
			end := min(at+size, len(steps))
			without := append(append([]int{}, steps[:at]...), steps[end:]...)
			if fails(without) {
				steps, shorter = without, true
			} else {
				at = end
			}
		}
		if !shorter || size > len(steps) {
			size /= 2
		}
	}
	return steps
}
