package main

import (
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/paraglide/glide/client"
)

func newAttach(a *app) *cobra.Command {
	var device string
	var timeout, dead time.Duration
	cmd := &cobra.Command{
		Use:   "attach NAME [--device /dev/nbdN] [--timeout 30s] [--dead-timeout 10m]",
		Short: "Attach a volume as a kernel block device",
		Long: `Attaches a volume, or a snapshot, as a block device of the daemon's machine and
prints its path. It needs the kernel's nbd module, and a daemon that runs as root.

The device stays when the daemon stops or crashes: writes wait, up to
--dead-timeout, and the next daemon on the same data directory takes the device
over. Requests in flight at a crash are sent again when they are --timeout old. A
device does not survive a reboot of the machine.`,
		Example: `  mkfs.ext4 $(glide attach vm1)
  glide attach vm1 --device /dev/nbd3 --timeout 10s`,
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNames(true, args...); err != nil {
				return err
			}
			r := client.AttachRequest{Device: device}
			for _, t := range []struct {
				flag string
				d    time.Duration
				ms   *float64
			}{{"timeout", timeout, &r.TimeoutMs}, {"dead-timeout", dead, &r.DeadTimeoutMs}} {
				if cmd.Flags().Changed(t.flag) && (t.d < time.Second || t.d%time.Second != 0) {
					return usage("--%s %v: the kernel counts in whole seconds, at least 1", t.flag, t.d)
				}
				*t.ms = float64(t.d.Milliseconds())
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			at, err := c.Attach(cmd.Context(), args[0], r)
			if err != nil {
				return err
			}
			return a.print(at, func(w io.Writer) error { return say(w, "%s", at.Device) })
		},
	}
	cmd.Flags().StringVar(&device, "device", "", "`PATH` of the device to use, /dev/nbdN (default any free device)")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "send a request again when it has had no answer for this `TIME`")
	cmd.Flags().DurationVar(&dead, "dead-timeout", 10*time.Minute, "let requests wait this `TIME` for a daemon before they fail")
	return a.jsonFlag(cmd)
}

func newDetach(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "detach NAME|/dev/nbdN [--force]",
		Short: "Detach a kernel block device",
		Long: `Writes out what the kernel has in memory for a device, and removes the device. A
device that is mounted, or that a process has open, is refused without --force.
With --force, unwritten data is lost, and users of the device get errors.`,
		Example:           "  umount /srv && glide detach vm1",
		Args:              takes(1, 1),
		ValidArgsFunction: a.volumes(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := client.DetachRequest{Force: force}
			if strings.HasPrefix(args[0], "/") {
				r.Device = args[0]
			} else if err := checkNames(true, args...); err != nil {
				return err
			} else {
				r.Name = args[0]
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			at, err := c.Detach(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.print(at, func(w io.Writer) error { return say(w, "%s is detached from %s", at.Name, at.Device) })
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "detach a device in use, without writing what is in memory")
	return a.jsonFlag(cmd)
}
