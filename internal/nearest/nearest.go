// Package nearest finds the known word that an unknown one was probably meant
// to be, for messages about misspelt keys.
package nearest

import "strings"

// Word returns the known word with the fewest changed, added, missing or swapped
// letters, or "" if every one is too far off to be meant: more than a third of
// the letters.
func Word(s string, known []string) string {
	best, least := "", len(s)
	for _, k := range known {
		if d := distance(fold(s), fold(k)); d < least && d <= max(1, max(len(s), len(k))/3) {
			best, least = k, d
		}
	}
	return best
}

// Closest is Word without a limit. If all words are too far off, it returns one
// that is a prefix of s or has s as a prefix, else the one with the fewest
// differences.
func Closest(s string, known []string) string {
	if w := Word(s, known); w != "" {
		return w
	}
	best, least := "", 0
	for _, k := range known {
		d := distance(fold(s), fold(k))
		if strings.HasPrefix(fold(s), fold(k)) || strings.HasPrefix(fold(k), fold(s)) {
			d = 0
		}
		if best == "" || d < least {
			best, least = k, d
		}
	}
	return best
}

// Hint is `, did you mean "WORD"?`, or "" if no word is near.
func Hint(s string, known []string) string {
	if w := Word(s, known); w != "" {
		return `, did you mean "` + w + `"?`
	}
	return ""
}

// fold makes words that differ only in spelling style comparable.
func fold(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }

// distance counts edits (insert, delete, replace, swap neighbours). Long words
// are never near: keys may come from anyone, so the work must be bounded.
func distance(a, b string) int {
	const long = 64
	if len(a) > long || len(b) > long {
		return len(a) + len(b)
	}
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j+1]+1, next[j]+1, row[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
