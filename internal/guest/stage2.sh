#!/run/glide/busybox sh
# The first process in the disk's own file system: runs the script, and ends the
# machine. On a machine with systemd that is the first process, and has a service
# that does this with "script" as the argument.
bb=/run/glide/busybox
exec </dev/null >/dev/ttyS0 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
if [ "$1" != script ]; then
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
	if $bb grep -qw glide.systemd /proc/cmdline; then
		$bb mkdir -p /run/systemd/system
		$bb cat >/run/systemd/system/glide-script.service <<-END
			[Unit]
			Description=the script of a test
			[Service]
			ExecStart=/run/glide/stage2 script
			IgnoreSIGPIPE=no
		END
		exec /lib/systemd/systemd --unit=glide-script.service --show-status=no
		echo "@glide dead the disk has no systemd"
		$bb poweroff -f
	fi
fi
echo "@glide init"
(exec /bin/sh -eu /run/glide/script)
status=$?
echo
echo "@glide exit $status"
$bb sync
if [ "$1" = script ]; then
	# Services have files open: the kernel does it all the same.
	echo u >/proc/sysrq-trigger
else
	$bb mount -o remount,ro / || echo "@glide dead the disk does not unmount"
fi
echo "@glide off"
$bb stty -F /dev/ttyS0 raw # waits until the port has sent everything
$bb poweroff -f
