// Package window reads a file forwards in large parts.
package window

// Size is the length of a part in bytes, unless more is asked for at once.
const Size = 1 << 20

// Window reads a file of End bytes. One goroutine at a time uses it.
type Window struct {
	Read func(p []byte, pos uint32) error // fills p from the file
	End  uint32

	buf  []byte
	from uint32
}

// At returns n bytes at pos. At the end of the file they are padded with zeros. They are
// valid until the next call.
func (w *Window) At(pos, n uint32) ([]byte, error) {
	if pos >= w.from && uint64(pos)+uint64(n) <= uint64(w.from)+uint64(len(w.buf)) {
		return w.buf[pos-w.from:][:n], nil
	}
	want := max(n, Size)
	if uint64(cap(w.buf)) < uint64(want) {
		w.buf = make([]byte, want)
	}
	w.buf = w.buf[:want]
	got := uint32(min(uint64(want), uint64(w.End-min(pos, w.End))))
	if err := w.Read(w.buf[:got], pos); err != nil {
		w.buf = w.buf[:0]
		return nil, err
	}
	clear(w.buf[got:])
	w.from = pos
	return w.buf[:n], nil
}
