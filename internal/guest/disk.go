package guest

import (
	"fmt"
	"net/url"
	"strings"
	"time"
)

// disk is the part of QEMU's command line that makes a disk, of an NBD URI or
// of a file. Only the long form of the options (-blockdev) has those for
// connecting again.
func disk(id, where string, snapshot bool, reconnect time.Duration) []string {
	device := []string{"-device", "virtio-blk-pci,drive=" + id}
	server, export, ok := nbdServer(where)
	if snapshot || reconnect == 0 || !ok {
		drive := "if=none,id=" + id + ",format=raw,cache=writeback,discard=unmap,file=" + escape(where)
		if snapshot {
			drive += ",snapshot=on"
		}
		return append([]string{"-drive", drive}, device...)
	}
	// open-timeout is for the first connection, and came with QEMU 7.
	nbd := fmt.Sprintf("driver=nbd,node-name=%s-nbd,%s,export=%s,reconnect-delay=%[4]d,open-timeout=%[4]d,discard=unmap",
		id, server, escape(export), int(reconnect.Seconds()))
	raw := fmt.Sprintf("driver=raw,node-name=%[1]s,file=%[1]s-nbd,discard=unmap", id)
	return append([]string{"-blockdev", nbd, "-blockdev", raw}, append(device[:1:1], device[1]+",write-cache=on")...)
}

// nbdServer takes an NBD URI apart: the server as QEMU's options have it, and the export.
func nbdServer(uri string) (server, export string, ok bool) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", "", false
	}
	export = strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "nbd+unix":
		return "server.type=unix,server.path=" + escape(u.Query().Get("socket")), export, true
	case "nbd":
		return "server.type=inet,server.host=" + u.Hostname() + ",server.port=" + u.Port(), export, true
	}
	return "", "", false
}
