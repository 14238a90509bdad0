package main

import (
	"os"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"

	"github.com/paraglide/glide/client"
	"github.com/paraglide/glide/internal/size"
)

// isTerminal tells whether somebody looks at w.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// spin draws a spinner on a terminal until the returned function is called, for
// work whose end is not known.
func (a *app) spin(what string) (stop func()) {
	if !isTerminal(a.err) {
		return func() {}
	}
	p := mpb.New(mpb.WithOutput(a.err), mpb.WithRefreshRate(120*time.Millisecond))
	bar := p.New(0, mpb.SpinnerStyle().PositionLeft(), mpb.BarWidth(2),
		mpb.AppendDecorators(decor.Name(" "+what+" "), decor.Elapsed(decor.ET_STYLE_GO)))
	return func() {
		bar.Abort(true) // it is done, well or not: the line goes
		p.Wait()
	}
}

// watched is a source with a progress bar.
type watched struct {
	client.Source
	progress *mpb.Progress
	bar      *mpb.Bar
	data     int64 // bytes that were no holes
}

// watch draws how far src was read, on a terminal. Call stop in the end.
func (a *app) watch(what string, src client.Source) *watched {
	w := &watched{Source: src}
	if !isTerminal(a.err) {
		return w
	}
	w.progress = mpb.New(mpb.WithOutput(a.err), mpb.WithRefreshRate(120*time.Millisecond), mpb.WithWidth(48))
	total := int64(src.Size())
	w.bar = w.progress.New(total, mpb.BarStyle().Rbound("|").Lbound("|"),
		mpb.PrependDecorators(decor.Name(what+" ")),
		mpb.AppendDecorators(decor.Percentage(), decor.Any(func(s decor.Statistics) string {
			return " " + size.Human(s.Current) + " of " + size.Human(s.Total) + " "
		}), decor.Elapsed(decor.ET_STYLE_GO)))
	return w
}

// Next implements api.Source.
func (w *watched) Next() (client.Extent, error) {
	e, err := w.Source.Next()
	w.data += int64(len(e.Data))
	if w.bar != nil && err == nil {
		// The daemon is still at work when all was read: the end is stop's.
		w.bar.SetCurrent(min(int64(e.Off), int64(w.Size())-1))
	}
	return e, err
}

func (w *watched) stop() {
	if w.bar != nil {
		w.bar.Abort(true)
		w.progress.Wait()
	}
}
