package guest

import (
	"context"
	"fmt"
)

// kernelScript attaches an export with the kernel's own NBD client and uses it
// as a disk: file system, file tree, discard, check. Every step that fails ends it.
const kernelScript = `
nbd-client %[1]s %[2]s /dev/nbd0 -N %[3]s -timeout 30 >/dev/null
trap 'nbd-client -d /dev/nbd0 >/dev/null' EXIT
mkfs.ext4 -q -F /dev/nbd0
mkdir -p /run/vol
mount -t ext4 /dev/nbd0 /run/vol
i=0
while [ $i -lt 16 ]; do
	mkdir -p /run/vol/tree/$i
	dd if=/dev/urandom of=/run/vol/tree/$i/a bs=64k count=4 conv=fsync 2>/dev/null
	dd if=/dev/urandom of=/run/vol/tree/$i/b bs=1000 count=3 conv=fsync 2>/dev/null
	i=$((i + 1))
done
dd if=/dev/zero of=/run/vol/gone bs=1M count=16 conv=fsync 2>/dev/null
(cd /run/vol && find tree -type f | sort | xargs sha256sum) >/run/sums
rm /run/vol/gone
sync -f /run/vol
fstrim -v /run/vol
umount /run/vol
fsck.ext4 -f -n /dev/nbd0 >/dev/null
blockdev --flushbufs /dev/nbd0
mount -t ext4 -o ro /dev/nbd0 /run/vol
(cd /run/vol && sha256sum --quiet -c /run/sums)
umount /run/vol
echo "$(wc -l </run/sums) files checked"
`

// kernelClient boots the machine with a network and lets the guest's kernel
// use an NBD export of a server on this host as a disk: mkfs.ext4, mount, a tree
// of files with fsync and checksums, fstrim, fsck. Whatever was in the export is
// lost. The server has to listen on the loopback interface, at port.
func kernelClient(ctx context.Context, vm VM, port int, export string) (Result, error) {
	vm.Net = true
	vm.Script = fmt.Sprintf(kernelScript, "10.0.2.2", fmt.Sprint(port), export)
	return Boot(ctx, vm)
}
