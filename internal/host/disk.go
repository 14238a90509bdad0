package host

// latencies are made when they are first needed: 48 KiB. Under mu.
func (d *disk) latencies() *latencies {
	if d.lat == nil {
		d.lat = &latencies{}
	}
	return d.lat
}
