package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// printer prints progress with the time since the start.
type printer struct {
	w       io.Writer
	started time.Time
}

func newPrinter(w io.Writer) *printer { return &printer{w: w, started: time.Now()} }

// say prints a step.
func (p *printer) say(format string, args ...any) {
	fmt.Fprintf(p.w, "[%3.0fs] %s\n", time.Since(p.started).Seconds(), fmt.Sprintf(format, args...))
}

// detail prints what came of a step.
func (p *printer) detail(format string, args ...any) {
	fmt.Fprintf(p.w, "       %s\n", fmt.Sprintf(format, args...))
}

// row is a line of the table: what, how much, and what to make of it.
type row struct{ what, value, note string }

// table prints rows in aligned columns. A row of only a name is a heading.
func (p *printer) table(rows []row) {
	var what, value int
	for _, r := range rows {
		if r.value == "" {
			continue
		}
		what = max(what, utf8.RuneCountInString(r.what))
		value = max(value, utf8.RuneCountInString(r.value))
	}
	for _, r := range rows {
		if r.value == "" {
			fmt.Fprintf(p.w, "\n  %s\n  %s\n", r.what, strings.Repeat("─", what+value+40))
			continue
		}
		pad := strings.Repeat(" ", value-utf8.RuneCountInString(r.value))
		line := fmt.Sprintf("  %-*s  %s%s  %s", what, r.what, pad, r.value, r.note)
		fmt.Fprintln(p.w, strings.TrimRight(line, " "))
	}
	fmt.Fprintln(p.w)
}

// bytesText is a number of bytes in a unit that a person reads.
func bytesText[T int | int64 | uint64](n T) string {
	f := float64(n)
	switch {
	case f >= 1<<30:
		return fmt.Sprintf("%.2f GiB", f/(1<<30))
	case f >= 1<<20:
		return fmt.Sprintf("%.1f MiB", f/(1<<20))
	case f >= 1<<10:
		return fmt.Sprintf("%.1f KiB", f/(1<<10))
	}
	return fmt.Sprintf("%.0f B", f)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
