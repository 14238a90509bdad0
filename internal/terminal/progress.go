// Package terminal shows a person tables, times, and the progress of long work.
package terminal

import (
	"context"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
)

// Is tells whether w is a terminal.
func Is(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// meter shows the progress of a request to the daemon on a terminal: a spinner
// until the daemon reports progress, then a bar.
type meter struct {
	what     string
	progress *mpb.Progress

	mu  sync.Mutex
	bar *mpb.Bar
	set bool // bar is a bar, not a spinner
}

// Meter shows the progress of requests made with the returned context, until
// stop. If w is no terminal, it shows nothing.
func Meter(ctx context.Context, w io.Writer, what string) (mctx context.Context, stop func()) {
	if !Is(w) {
		return ctx, func() {}
	}
	m := &meter{what: what, progress: newProgress(w)}
	m.bar = m.progress.New(0, mpb.SpinnerStyle().PositionLeft(), mpb.BarWidth(2),
		mpb.AppendDecorators(decor.Name(" "+what+" "), decor.Elapsed(decor.ET_STYLE_GO)))
	return client.WithProgress(ctx, m.report), m.stop
}

func (m *meter) report(done, total uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.set {
		m.bar.Abort(true)
		m.bar, m.set = addBar(m.progress, m.what, int64(total)), true
	}
	// One request may do several things, each with its own total. Only stop ends
	// the bar.
	m.bar.SetTotal(int64(total), false)
	m.bar.SetCurrent(min(int64(done), int64(total)-1))
}

func (m *meter) stop() {
	m.mu.Lock()
	m.bar.Abort(true) // removes the line, whatever the result
	m.mu.Unlock()
	m.progress.Wait()
}

func newProgress(w io.Writer) *mpb.Progress {
	return mpb.New(mpb.WithOutput(w), mpb.WithRefreshRate(120*time.Millisecond), mpb.WithWidth(48))
}

func addBar(p *mpb.Progress, what string, total int64) *mpb.Bar {
	return p.New(total, mpb.BarStyle().Rbound("|").Lbound("|"),
		mpb.PrependDecorators(decor.Name(what+" ")),
		mpb.AppendDecorators(decor.Percentage(), decor.Any(func(s decor.Statistics) string {
			return " " + size.Human(s.Current) + " of " + size.Human(s.Total) + " "
		}), decor.Elapsed(decor.ET_STYLE_GO)))
}

// Watched is a source with a progress bar.
type Watched struct {
	client.Source
	progress *mpb.Progress
	bar      *mpb.Bar
	Data     int64 // bytes outside holes that were read
}

// Watch shows the progress of reading src, if to is a terminal. Call Stop at the end.
func Watch(to io.Writer, what string, src client.Source) *Watched {
	w := &Watched{Source: src}
	if !Is(to) {
		return w
	}
	w.progress = newProgress(to)
	w.bar = addBar(w.progress, what, int64(src.Size()))
	return w
}

// Next implements api.Source.
func (w *Watched) Next() (client.Extent, error) {
	e, err := w.Source.Next()
	w.Data += int64(len(e.Data))
	if w.bar != nil && err == nil {
		// The daemon still works when all is read: only Stop ends the bar.
		w.bar.SetCurrent(min(int64(e.Off), int64(w.Size())-1))
	}
	return e, err
}

// Stop removes the bar.
func (w *Watched) Stop() {
	if w.bar != nil {
		w.bar.Abort(true)
		w.progress.Wait()
	}
}
