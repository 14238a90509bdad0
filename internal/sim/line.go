package sim

import (
	"fmt"
	"time"

	"github.com/paraglide/glide/nbd"
)

// line is one volume on one host, as the model knows it: what its guests wrote
// there, and what of that may not be missing. A volume that moves leaves a line
// behind and begins another. Its fields are under world.mu.
type line struct {
	index int
	m     *machine
	id    string // "" while it is not known to exist
	name  string
	names []string // under which it may be found instead, or before

	history
	acked   int // writes that were acknowledged
	durable int // those of them that a flush, or more, covered
	stored  int // those that the newest commit in the store covers; -1: none
	// loose: the host crashed, and nobody has looked yet how many writes are left.
	loose, crashed bool
	broken         bool // its disk failed; it is mended by a restart

	promises []promise // its policy is one of these; none: local
	inStore  image     // what its newest commit in the store holds

	baseRoot rootKey   // the published root that it lies over, while it is not published
	unkept   time.Time // since when nothing but history keeps that
	unkeptBy string
	behind   bool // when it was forked, its host may not have known the newest commit
	rolled   bool // back, so it need not lie over its newest commit
	// unsure: what it published last may have taken effect without its knowing.
	unsure bool
	owns   bool // it was published, or claimed, from here
	taking bool // it is being claimed
	// since is the epoch with which it began here, in the log of sinceName; another
	// name that it was given has a log of its own. 0 if it was made here.
	since     uint64
	sinceName string
	released  bool     // it was, or may have been, handed back to the store
	least     int      // if loose: so many writes are there
	sizes     []uint64 // it has one of these
	resizing  bool

	blockSize uint32
	rescue    *line
	maybe     bool // asked for, and not acknowledged
	ended     bool // removed, released, or taken off this host
	failed    bool // ended, since its host could not open it: a later try may succeed
	inRescue  bool // ended: what it had is in its rescue, which may not have been seen yet
	ending    bool // that was asked for
	leaving   bool // another host asked for it
	askers    int  // who may put it to sleep now
	fenced    bool
	snaps     map[string]*snap

	// While a fork is being made: of which line, which has at least so many writes.
	source     *line
	sourceFrom int

	guest chan struct{} // held by whoever does the guest's I/O
	verb  chan struct{} // held by verbs that exclude each other
	conn  *nbd.Export
	life  int // of the host, in which conn was opened
}

// snap is a snapshot.
type snap struct {
	history      // what it may hold: the state after any of these writes
	size         uint64
	maybe, going bool
}

func (l *line) String() string { return fmt.Sprintf("%s on h%d", l.name, l.m.index) }

// mayBe tells whether the line can be under the name.
func (l *line) mayBe(name string) bool {
	if l.name == name {
		return true
	}
	for _, n := range l.names {
		if n == name {
			return true
		}
	}
	return false
}

// hold waits for the guest's turn; the function that it returns ends it.
func (l *line) hold() func() {
	l.guest <- struct{}{}
	return func() { <-l.guest }
}
