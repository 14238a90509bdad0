package guest

import (
	"strings"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/programs"
)

// attachScript runs a daemon in the guest, whose kernel has nbd. /srv/v is a file
// system on an attached volume, on which fio works while the daemon is replaced.
const attachScript = workload + `
cp /run/glide/glide /run/glide/glide-next
g=/run/glide/glide
export GLIDE_API=unix:/run/g/api.sock
mkdir -p /run/g /srv/v
serve() {
	(cd / && exec $g serve --data /var/g --api $GLIDE_API --nbd unix:/run/g/nbd.sock --memory 32M --cache 64M --wal-limit 512M >/run/g/out 2>>/run/g/log) &
	daemon=$!
	until grep -q '^glide: ready' /run/g/out; do
		kill -0 $daemon
		sleep 0.1
	done
}
stop() { # signal
	kill -$1 $daemon
	wait $daemon || true
	: >/run/g/out
}
refused() { # words of the error, and the command
	words=$1
	shift
	if said=$("$@" 2>&1); then echo "not refused: $*"; exit 1; fi
	case $said in
	*"$words"*) ;;
	*) echo "$* said: $said, not: $words"; exit 1 ;;
	esac
}
# Who fails must not leave a device that waits for a daemon.
trap '[ $? = 0 ] || { cat /run/g/log; dmesg | tail -30; $g detach vol --force; }; kill -9 $daemon' EXIT

serve
$g create vol --size 256M
$g create other --size 64M
refused none $g attach none
[ "$($g attach vol --timeout 2s)" = /dev/nbd0 ]
$g show vol --json | grep -q '"device": "/dev/nbd0"'
refused 'attached already, as /dev/nbd0' $g attach vol
refused '/dev/nbd0 is in use' $g attach other --device /dev/nbd0
[ "$($g attach other --device /dev/nbd5)" = /dev/nbd5 ]
exec 5</dev/nbd5
refused 'in use by' $g detach other
exec 5<&-
$g detach /dev/nbd5
refused 'is not attached' $g detach other
$g doctor | grep 'kernel devices'

mkfs.ext4 -q /dev/nbd0
mount /dev/nbd0 /srv/v
refused 'unmount it' $g detach vol
refused 'glide detach' $g sleep vol
cd /srv/v
fio_rounds &
fio=$!
sleep 1
stop KILL
sleep 0.5
serve
sleep 3
stop TERM
g=/run/glide/glide-next
serve
sleep 2
$g resize vol 384M
[ $(blockdev --getsize64 /dev/nbd0) = $((384 << 20)) ]
resize2fs /dev/nbd0 2>/dev/null
touch stop
wait $fio
cd /
umount /srv/v
fsck.ext4 -f -n /dev/nbd0 >/run/g/fsck
$g detach vol

# What is in the kernel's memory alone is written before the device goes.
dev=$($g attach vol)
head -c 8M /dev/urandom >/run/g/random
cat /run/g/random >$dev
$g detach vol
stop KILL
serve
dev=$($g attach vol)
head -c 8M $dev | cmp - /run/g/random

# A volume that goes takes its device with it.
$g rm vol --force
[ $(blockdev --getsize64 /dev/nbd0) = 0 ]
/run/glide/busybox rmmod nbd # nothing holds it any more
refused 'nbd module' $g attach other
echo "all is well"
`

// TestAttach runs a daemon inside of a guest and uses its volumes as block
// devices there.
func TestAttach(t *testing.T) {
	im := build(t, "fio", "sqlite3", "systemd")
	t.Parallel()
	began := time.Now()
	r, err := Boot(t.Context(), VM{
		Kernel: im.Kernel, Initrd: im.Initrd, Disk: im.Path, Snapshot: true, Memory: 640, Timeout: 4 * time.Minute,
		Files: map[string]string{"glide": programs.Glide(t)}, Script: attachScript,
		Line: func(line string) { t.Logf("%v: %s", time.Since(began).Round(time.Millisecond), line) },
	})
	if err != nil || !strings.HasSuffix(r.Output, "all is well\n") {
		t.Fatalf("%v\n%s", err, r.Output)
	}
}
