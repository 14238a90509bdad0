package main

// States of glide's disk in a cell.
const (
	inLog     = "log"       // written since it was last published: read from the log
	published = "published" // a fork of a published volume: read from the SSD tier, as a booted image is
	folded    = "folded"    // continuous: written, sent as data commits and folded into packs
)

// cell is one row of the table.
type cell struct {
	name  string
	state string
	floor float64 // the least ratio to nbdkit file that is promised
	args  string
}

// cells begin with those that read published blocks: most of what a VM reads. The
// writes come last, since they leave a disk of another state.
var cells = []cell{
	{"4k random read, depth 1", published, 0.9, "--rw=randread --bs=4k --iodepth=1"},
	{"4k random read, depth 32", published, 0.8, "--rw=randread --bs=4k --iodepth=32"},
	{"16k random read, depth 8", published, 0.7, "--rw=randread --bs=16k --iodepth=8"},
	{"128k sequential read, depth 8", published, 0.9, "--rw=read --bs=128k --iodepth=8"},
	{"4k random read, depth 32", folded, 0.8, "--rw=randread --bs=4k --iodepth=32"},
	{"4k random read, depth 32", inLog, 0.9, "--rw=randread --bs=4k --iodepth=32"},
	{"4k random read, depth 1", inLog, 1.2, "--rw=randread --bs=4k --iodepth=1"},
	{"128k sequential read, depth 8", inLog, 0.9, "--rw=read --bs=128k --iodepth=8"},
	{"128k sequential write, depth 8, flush each 32 MiB", inLog, 0.9, "--rw=write --bs=128k --iodepth=8 --fsync=256"},
	{"4k random write, depth 32", inLog, 1.1, "--rw=randwrite --bs=4k --iodepth=32"},
	{"4k random write, depth 1", inLog, 1.1, "--rw=randwrite --bs=4k --iodepth=1"},
	{"4k random write, flush each 32, depth 1", inLog, 1.5, "--rw=randwrite --bs=4k --iodepth=1 --fsync=32"},
	{"4k random write, flush each 32, depth 32", inLog, 1.5, "--rw=randwrite --bs=4k --iodepth=32 --fsync=32"},
	{"4k random write, flush each, depth 1", inLog, 0.9, "--rw=randwrite --bs=4k --iodepth=1 --fsync=1"},
	{"4k random write, flush each, depth 32", inLog, 1.3, "--rw=randwrite --bs=4k --iodepth=32 --fsync=1"},
}
