package sharing

import (
	"encoding/binary"

	"github.com/paraglide/glide/internal/pack"
)

// key identifies a node: half of a hash, and what the node is. Hashes are keyed by tenant,
// so nobody can choose them, and 120 bits are enough for all blocks of a host.
type key [16]byte

const (
	ofBlock byte = iota
	ofPage
)

func keyOf(h *pack.Hash, what byte) (k key) {
	copy(k[:], h[:len(k)-1])
	k[len(k)-1] = what
	return k
}

// node is a page or a block.
type node struct {
	key    key
	mix    uint32 // the references to it, from pages and disks
	page   uint32 // of a page that was read: where in pages it is
	raw    uint32 // of a block: its size
	stored uint32 // of a block: what it takes in the store
}

// page is what is below a page.
type page struct {
	kids   []uint32 // nodes; one for each slot that is no hole
	blocks uint64   // mapped ones; 0 until they are counted
	level  int
	linked bool // the kids have their references from it
}

// nodes holds all nodes and finds them by their keys, in a hash table with linear probing
// at most three quarters full. A Go map would take three times its bytes.
type nodes struct {
	all   []node
	free  []uint32
	table []uint32 // numbers of nodes; 0 is none
	used  int

	pages     []page
	freePages []uint32
	kids      int // in all pages
}

func newNodes() nodes {
	return nodes{all: make([]node, 1), pages: make([]page, 1), table: make([]uint32, 1<<8)}
}

func (ns *nodes) home(k *key) int {
	return int(binary.LittleEndian.Uint64(k[:]) & uint64(len(ns.table)-1))
}

// find returns the node with the key and the stored size, or 0.
func (ns *nodes) find(k key, stored uint32) uint32 {
	for i := ns.home(&k); ; i = (i + 1) & (len(ns.table) - 1) {
		n := ns.table[i]
		if n == 0 || ns.all[n].key == k && ns.all[n].stored == stored {
			return n
		}
	}
}

// add adds a node that find did not find.
func (ns *nodes) add(nd node) uint32 {
	if 4*(ns.used+1) > 3*len(ns.table) {
		old := ns.table
		ns.table = make([]uint32, 2*len(old))
		for _, n := range old {
			if n != 0 {
				ns.insert(n)
			}
		}
	}
	n := place(&ns.all, &ns.free, nd)
	ns.insert(n)
	ns.used++
	return n
}

func (ns *nodes) insert(n uint32) {
	i := ns.home(&ns.all[n].key)
	for ns.table[i] != 0 {
		i = (i + 1) & (len(ns.table) - 1)
	}
	ns.table[i] = n
}

// remove removes a node, and with it the list of what is below it.
func (ns *nodes) remove(n uint32) {
	mask := len(ns.table) - 1
	hole := ns.home(&ns.all[n].key)
	for ns.table[hole] != n {
		hole = (hole + 1) & mask
	}
	// Move back whatever find could not reach past the hole.
	for i := (hole + 1) & mask; ns.table[i] != 0; i = (i + 1) & mask {
		if home := ns.home(&ns.all[ns.table[i]].key); (i-home)&mask >= (i-hole)&mask {
			ns.table[hole], hole = ns.table[i], i
		}
	}
	ns.table[hole] = 0
	if p := ns.all[n].page; p != 0 {
		ns.kids -= len(ns.pages[p].kids)
		ns.pages[p] = page{}
		ns.freePages = append(ns.freePages, p)
	}
	ns.all[n] = node{}
	ns.free = append(ns.free, n)
	ns.used--
}

// bytes estimates what the nodes take.
func (ns *nodes) bytes() int64 {
	return int64(cap(ns.all))*32 + int64(cap(ns.pages))*48 + 4*int64(len(ns.table)+ns.kids+cap(ns.free)+cap(ns.freePages))
}
