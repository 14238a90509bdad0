// Package guest gives tests and the demo a real virtual machine: it makes a
// small Debian disk with debootstrap, and boots it in QEMU.
//
// The disk is plain Debian (variant minbase) with a label and no boot loader.
// QEMU is handed the distribution's cloud kernel and an initramfs of our own:
// a static busybox, the few modules that a virtio guest needs, and two scripts.
// The first (init) mounts /dev/vda and switches to it, the second (stage2) runs the
// caller's script in it as root, syncs, and powers off. Nothing else runs, but
// for systemd if that is asked for (VM.Systemd), so that a boot takes seconds even
// where the processor is emulated, as it is here:
// QEMU is told to use TCG, which works on any machine.
//
// What the guest says comes over the first serial port as lines that begin with
// "@glide" (markers) and the script's output between them; the kernel's own
// messages go to the second port and are shown only when something went wrong.
// The caller's script, and files that go with it, travel in a second cpio
// archive behind the initramfs, so that neither the disk nor a network is needed.
package guest
