#!/bin/busybox sh
# The first process: finds the root file system and moves into it.
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /root
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS0 2>&1
$bb stty -F /dev/ttyS0 raw -echo

die() {
	echo "@glide dead $*"
	$bb stty -F /dev/ttyS0 raw
	$bb poweroff -f
}

while read -r module; do
	$bb insmod "/modules/$module" || die "module $module does not load"
done </modules/order

n=0
while [ ! -b /dev/vda ]; do
	n=$((n + 1))
	[ $n -lt 100 ] || die "no disk"
	$bb sleep 0.1
done
$bb mount -t ext4 /dev/vda /root || die "the disk does not mount"
$bb mount -t tmpfs -o mode=755 run /root/run || die "no /run"
$bb mkdir /root/run/glide
$bb cp /bin/busybox /stage2 /script /root/run/glide/ || die "no script"
for f in /files/*; do
	[ ! -e "$f" ] || $bb mv "$f" /root/run/glide/ || die "no room for $f"
done
for d in proc sys dev; do
	$bb mount --move /$d /root/$d
done
exec $bb switch_root /root /run/glide/stage2
die "the root file system has no place to switch to"
