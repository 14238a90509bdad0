#!/run/glide/busybox sh
# The first process in the disk's own file system: runs the script, and ends the machine.
bb=/run/glide/busybox
exec </dev/null >/dev/ttyS0 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
$bb hostname glide-guest
$bb mkdir -p /dev/pts /dev/shm /run/lock
$bb mount -t devpts pts /dev/pts
$bb mount -t tmpfs tmp /tmp
$bb ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
	# QEMU's user network: we are .15, the host is .2.
	$bb ip link set eth0 up
	$bb ip addr add 10.0.2.15/24 dev eth0
	$bb ip route add default via 10.0.2.2
fi
echo "@glide init"
(exec /bin/sh -eu /run/glide/script)
status=$?
echo
echo "@glide exit $status"
$bb sync
$bb mount -o remount,ro / || echo "@glide dead the disk does not unmount"
echo "@glide off"
$bb stty -F /dev/ttyS0 raw # waits until the port has sent everything
$bb poweroff -f
