package gc

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
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
	for _, name := range c.realm.owners {
		logs, err := c.erasedLogs(ctx, name, inv)
		if err != nil {
			return err
		}
		f.Keys = append(f.Keys, logs...)
	}
	f.Packs, f.Keys = f.Packs[:min(len(f.Packs), maxFlags)], f.Keys[:min(len(f.Keys), maxFlags)]
	return nil
}

// erasedLogs are the objects of the logs of an erased domain. A log of its tenant that has
// objects of other domains, too, stays as it is: the name was given to another volume.
func (c *collector) erasedLogs(ctx context.Context, name string, inv *inventory) (list []flaggedObject, err error) {
	tenant, isolated, err := commitlog.ParseDomainName(name)
	if err != nil {
		return nil, err
	}
	logs := map[commitlog.Volume][]flaggedObject{}
	err = objstore.ListAll(ctx, c.Store, "t/"+tenant+"/", "", func(in objstore.Info) bool {
		if vol, _, err := commitlog.ParseKey(in.Key); err == nil {
			logs[vol] = append(logs[vol], flaggedObject{in.Key, in.Size})
		}
		return true
	})
	mixed := false
	for other := range inv.tenants {
		of, number, _ := commitlog.ParseDomainName(other)
		mixed = mixed || of == tenant && number != 0
	}
	for _, objects := range logs {
		all := err == nil
		for i := 0; i < len(objects) && all && mixed; i++ {
			if all, err = c.isOf(ctx, objects[i].Key, isolated); errors.Is(err, errs.NotFound) {
				all, err = false, nil // the next round looks again
			}
		}
		if all {
			list = append(list, objects...)
		}
	}
	slices.SortFunc(list, func(a, b flaggedObject) int { return strings.Compare(a.Key, b.Key) })
	return list, err
}

// isOf tells whether an object of a log is of its tenant's own domain (0), or of that isolated
// one. It needs no keys.
func (c *collector) isOf(ctx context.Context, key string, isolated uint32) (bool, error) {
	raw, err := c.Store.Get(ctx, key)
	if err != nil {
		return false, err
	}
	o, err := commitlog.DecodeHeader(raw)
	if err != nil {
		return isolated == 0, nil // nobody can read it
	}
	return o.State.Isolated == isolated, nil
}

// judgeErased condemns all of it. The realm was looked at anew after the flag: a domain
// whose keyrings came back from a backup is not erased. Epochs that were flagged before can
// have no stubs; the next round flags their objects.
func (c *collector) judgeErased(f *flags, v *verdict) {
	v.SparedEpochs = upTo(len(f.Epochs))
}
