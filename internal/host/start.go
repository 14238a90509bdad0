package host

// openVolumes opens the volumes, and then lets the log be recycled.
func (h *Host) openVolumes() error {
	if err := h.disks.OpenAll(h.cfg.Starting); err != nil {
		return err
	}
	h.disks.WAL.Settle()
	h.bg.Go(func() { h.cleaner.Run(h.disks.Ctx) })
	h.bg.Go(func() {
		for _, d := range h.disks.All() {
			if v := d.Open(); v != nil {
				v.CheckLog(func() bool { return h.disks.Ctx.Err() != nil })
			}
		}
	})
	return nil
}
