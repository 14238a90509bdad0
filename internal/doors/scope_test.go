package doors

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/auth"
)

// eventful has events, and volumes that share data, of several tenants.
type eventful struct {
	api.Backend
	events []api.Event
}

func (b *eventful) Events(_ context.Context, after uint64, _ time.Duration) (out []api.Event, err error) {
	for _, e := range b.events {
		if e.Sequence > after {
			out = append(out, e)
			if len(out) == 2 {
				break
			}
		}
	}
	return out, nil
}

func (b *eventful) Usage(_ context.Context, name string) (u api.Usage, err error) {
	for _, n := range []string{"acme/web", "acme/db", "other/web", "plain"} {
		if name == "" {
			u.Volumes = append(u.Volumes, api.VolumeUsage{Name: n, Space: api.Space{Logical: 1, Stored: 10}})
		} else if n != name {
			u.SharedWith = append(u.SharedWith, api.SharedWith{Name: n, Bytes: 5})
		}
	}
	u.Logical = 4
	return u, nil
}

// TestEvents: a principal gets the events of his volumes, under their plain names, and waits
// past those of others and of the host.
func TestEvents(t *testing.T) {
	b := &eventful{}
	for i, v := range []string{"other/web", "", "plain", "acme/db", "other/web", "acme/web"} {
		b.events = append(b.events, api.Event{Sequence: uint64(i + 1), Volume: v, Message: "of " + v})
	}
	s := &scoped{b, view{auth.Bound("acme", "")}}
	var got []string
	for after := uint64(0); ; {
		list, err := s.Events(t.Context(), after, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			break
		}
		for _, e := range list {
			got, after = append(got, e.Volume+": "+e.Message), e.Sequence
		}
	}
	if want := []string{"db: of acme/db", "web: of acme/web"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestShared: who shares data with a volume, and what all volumes use together, is told of
// the principal's own.
func TestShared(t *testing.T) {
	s := &scoped{&eventful{}, view{auth.Bound("acme", "")}}
	u, err := s.Usage(t.Context(), "web")
	if err != nil || len(u.SharedWith) != 1 || u.SharedWith[0].Name != "db" {
		t.Errorf("%+v, %v", u.SharedWith, err)
	}
	u, err = s.Usage(t.Context(), "")
	if err != nil || len(u.Volumes) != 2 || u.Volumes[0].Name != "web" || u.Logical != 2 || u.Stored != 20 {
		t.Errorf("%+v, %v", u, err)
	}
}
