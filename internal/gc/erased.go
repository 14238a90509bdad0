package gc

import (
	"context"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/objstore"
)

// What is left of a tenant whose keys were erased is garbage, all of it, and no key is needed
// to collect it: packs and forwards of its domain, logs and boot lists. No stub fences its
// volumes any more: nobody can write to them, and its record stays, so that nobody can take
// its name.

// flagErased flags all that is left.
func (c *collector) flagErased(ctx context.Context, f *flags, inv *inventory) error {
	f.Packs = inv.packs[f.Domain]
	f.Keys = inv.keys(c.realm)
	for _, t := range c.realm.owners {
		err := objstore.ListAll(ctx, c.Store, "t/"+t+"/", "", func(in objstore.Info) bool {
			if _, _, err := commitlog.ParseKey(in.Key); err == nil {
				f.Keys = append(f.Keys, flaggedObject{in.Key, in.Size})
			}
			return len(f.Keys) < maxFlags
		})
		if err != nil {
			return err
		}
	}
	f.Packs, f.Keys = f.Packs[:min(len(f.Packs), maxFlags)], f.Keys[:min(len(f.Keys), maxFlags)]
	return nil
}

// judgeErased condemns all of it. The realm was looked at anew after the flag: a domain
// whose keyrings came back from a backup is not erased. Epochs that were flagged before can
// have no stubs; the next round flags their objects.
func (c *collector) judgeErased(f *flags, v *verdict) {
	v.SparedEpochs = upTo(len(f.Epochs))
}
