package api

// None is the body of a request or a response that has none.
type None struct{}

// RenameRequest gives a volume another name.
type RenameRequest struct {
	To string `json:"to"`
}

// ResizeRequest grows a volume.
type ResizeRequest struct {
	Size uint64 `json:"size"` // bytes
}

// SnapshotRequest asks for a snapshot.
type SnapshotRequest struct {
	Name    string `json:"name"`              // of the snapshot
	Expires string `json:"expires,omitempty"` // how long it is kept, such as 30d; "": for ever
}

// RestoreRequest brings a removed volume back.
type RestoreRequest struct {
	As string `json:"as,omitempty"` // its new name; "": the old one
}

// RollbackRequest takes a volume back.
type RollbackRequest struct {
	To    string `json:"to"` // a snapshot or a generation
	Force bool   `json:"force,omitempty"`
}

// SleepRequest puts a volume to sleep.
type SleepRequest struct {
	Portable bool `json:"portable,omitempty"` // flush it and give it up
	Force    bool `json:"force,omitempty"`
}

// WakeRequest wakes a volume, here.
type WakeRequest struct {
	Force  bool   `json:"force,omitempty"`
	Expect string `json:"expect_generation,omitempty"`
}

// VerifyRequest has a volume's blocks checked.
type VerifyRequest struct {
	Cold bool `json:"cold,omitempty"` // from the store, not from the cache
}

// HydrateRequest has a volume's blocks brought to the host.
type HydrateRequest struct {
	Rate uint64 `json:"rate,omitempty"` // bytes of the store a second; 0: no limit
}

// URI is where a volume is served.
type URI struct {
	URI string `json:"uri"`
}

// Dump is an object of the store, decoded.
type Dump struct {
	Key  string `json:"key"`
	Text string `json:"text"`
	// Damage says what is wrong with the object; Text is what could be read of it then.
	Damage string `json:"damage,omitempty"`
}

// Health is the answer of a daemon that serves.
type Health struct {
	Status  string `json:"status"` // ok
	Host    string `json:"host"`
	Version string `json:"version"`
}

// Error is the body of every answer that is one. Kind is a errs.Kind's name.
type Error struct {
	Error string `json:"error"`
	Kind  string `json:"kind"`
}
