package guest

import (
	"fmt"
	"net/url"
	"strings"
)

// disk is the part of QEMU's command line that makes the disk, of an NBD URI or
// of a file. Only the long form of the options (-blockdev) has those for
// connecting again.
func disk(vm VM) []string {
	server, export, ok := nbdServer(vm.Disk)
	if vm.Snapshot || vm.Reconnect == 0 || !ok {
		drive := "if=none,id=root,format=raw,cache=writeback,discard=unmap,file=" + escape(vm.Disk)
		if vm.Snapshot {
			drive += ",snapshot=on"
		}
		return []string{"-drive", drive, "-device", "virtio-blk-pci,drive=root"}
	}
	// open-timeout is for the first connection, and came with QEMU 7.
	nbd := fmt.Sprintf("driver=nbd,node-name=net,%s,export=%s,reconnect-delay=%[3]d,open-timeout=%[3]d,discard=unmap",
		server, escape(export), int(vm.Reconnect.Seconds()))
	return []string{
		"-blockdev", nbd, "-blockdev", "driver=raw,node-name=root,file=net,discard=unmap",
		"-device", "virtio-blk-pci,drive=root,write-cache=on",
	}
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
