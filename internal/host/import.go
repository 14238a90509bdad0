package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/cost"
	"github.com/paraglide/glide/internal/disk"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/ingest"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/pin"
	"github.com/paraglide/glide/internal/publication"
	"github.com/paraglide/glide/internal/volume"
)

// Import creates a volume from an image. It folds and uploads while it reads. Importing
// the same image under the same name again changes nothing.
func (h *Host) Import(ctx context.Context, name string, size uint64, src api.Source) (api.Import, error) {
	began := h.disks.Now()
	ctx, counter := publication.Count(ctx)
	n, size, err := importTarget(name, size, src)
	if err != nil {
		return api.Import{}, err
	}
	if err := h.mayGrow(); err != nil {
		return api.Import{}, err
	}
	out := api.Import{Name: n.String(), Size: size}
	defer func() { out.ElapsedMs = h.disks.Since(began) }()
	t := h.disks.Tenant(n.Tenant)
	st := h.disks.NewState(n, size)
	d := disk.New(h.disks, st)
	ctx = cost.With(ctx, cost.Import, d.Payer())
	d.Op.Lock() // another import of the same name waits for this one
	defer d.Op.Unlock()
	for {
		old, digest, err := h.imported(ctx, n)
		if err == nil && old != nil {
			out, err = unchanged(ctx, t.Hasher, *old, digest, src, size)
		}
		if err != nil || old != nil {
			out.ElapsedMs, out.Requests = h.disks.Since(began), publication.Requests(counter)
			return out, err
		}
		if h.disks.Reserve(d) == nil {
			break
		}
	}
	end := h.publisher.Session.Begin()
	release := func(context.Context) {}
	defer func() {
		if d.Unsettled() {
			return // the commit may still take effect: the pins of what it names stay
		}
		release(context.WithoutCancel(ctx))
		end(context.WithoutCancel(ctx))
	}()
	im := ingest.Importer{Session: h.publisher.Session, Index: t.Index, Hasher: t.Hasher, Pages: t.Pages, Limits: pack.Limits{Blocks: h.publisher.PackBlocks}, Compression: h.publisher.Compression, Keep: t.Domain.Keep, KeepPage: h.publisher.KeepPage}
	res, digest, err := im.Run(ctx, src, size, &out.BytesRead)
	if err == nil {
		var drop func(context.Context)
		if drop, err = h.publisher.PinReused(ctx, t, &res); err == nil {
			release = drop
		}
	}
	if err == nil {
		err = h.commitImport(ctx, d, &st, res.Root, digest)
	}
	if err != nil {
		h.disks.Unreserve(d)
		if errs.KindOf(err) == errs.Exists && digest != "" { // another host was faster
			if old, theirs, gone := h.imported(ctx, n); gone == nil && old != nil && theirs == digest && old.Size == size {
				out.ID, out.Generation, out.Unchanged, err = old.ID, old.Generation, true, nil
				out.Requests = publication.Requests(counter)
			}
		}
		return out, err
	}
	d.Stored.Add(int64(res.Uploaded))
	h.publisher.Dedup.Add(res.Hits)
	out.ID, out.Generation = st.ID.String(), disk.Generation(d.State().Published).String()
	out.BlocksFolded, out.BlocksNew, out.BytesUploaded = res.Folded, res.New, res.Uploaded
	out.Requests, out.ElapsedMs = publication.Requests(counter), h.disks.Since(began)
	return out, nil
}

func importTarget(name string, size uint64, src api.Source) (disk.Name, uint64, error) {
	n, err := disk.ParseName(name, false)
	if err != nil {
		return n, 0, err
	}
	image := (src.Size() + 511) &^ 511
	if size == 0 {
		size = image
	}
	if size < image {
		return n, 0, errs.New(errs.Invalid, "the image has %d bytes: a volume of %d cannot hold it", src.Size(), size)
	}
	return n, size, disk.CheckSize(size)
}

// imported returns the volume that already has the name, here or in the store, and nil if
// there is none. It waits for an import of that name on this host.
func (h *Host) imported(ctx context.Context, n disk.Name) (*api.Volume, string, error) {
	for d := h.disks.Find(n); d != nil; d = h.disks.Find(n) {
		d.Op.Lock()
		v, digest := h.view(d), d.State().ImportDigest
		d.Op.Unlock()
		if h.disks.Find(n) == d { // it was not abandoned meanwhile
			return &v, digest, nil
		}
	}
	tip, err := h.catalog.Tip(ctx, n)
	if errs.KindOf(err) == errs.NotFound && err != nil {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	v := remoteView(n, tip)
	return &v, tip.State.ImportDigest, nil
}

// unchanged reads an image whose name is taken. If the volume was imported from the same
// image, nothing is left to do.
func unchanged(ctx context.Context, hasher *pack.Hasher, old api.Volume, digest string, src api.Source, size uint64) (api.Import, error) {
	out := api.Import{Name: old.Name, ID: old.ID, Size: old.Size, Generation: old.Generation}
	if digest != "" && old.Size == size {
		got, err := ingest.DigestOf(ctx, hasher, src, size, &out.BytesRead)
		if err != nil {
			return out, err
		}
		if got == digest {
			out.Unchanged = true
			return out, nil
		}
	}
	return out, errs.New(errs.Exists, "a volume %q exists already, and was not created from this image: import it under another name, or glide rm %s first", old.Name, old.Name)
}

// commitImport publishes an imported volume and opens it. Under op.
func (h *Host) commitImport(ctx context.Context, d *disk.Disk, st *volume.State, root blockmap.Root, digest string) error {
	st.Root, st.RootBlocks, st.ImportDigest = root, st.Blocks(), digest
	d.SetRecord(st)
	g, err := h.owners.Commit(ctx, d, h.disks.CommitState(st, commitlog.CauseImport))
	if err != nil {
		return err
	}
	st.Published = &volume.Published{Epoch: g.Epoch, Number: g.Number}
	if err := h.disks.Save(st); err != nil {
		return err
	}
	if err := h.owners.FirstPublished(d, st); err != nil {
		return err
	}
	v, err := volume.Open(h.disks.Env(h.disks.Tenant(disk.DomainName(st))), *st, false)
	if err != nil {
		return err
	}
	d.SetVolume(v)
	return nil
}

// ImportToStore is Import without a daemon. The volume stays in the store without an
// owner, for any host to wake.
func ImportToStore(ctx context.Context, cfg Config, name string, size uint64, src api.Source) (api.Import, error) {
	if cfg.Data == "" {
		cfg.Data = "-" // there is no data directory
	}
	if err := cfg.fill(); err != nil {
		return api.Import{}, err
	}
	began := cfg.Now()
	ctx, counter := publication.Count(ctx)
	n, size, err := importTarget(name, size, src)
	if err != nil {
		return api.Import{}, err
	}
	h := newHost(cfg)
	defer h.stop()
	h.disks.HostID = "import-" + disk.ShortID(disk.NewVolumeID(h.disks))
	hasher := h.disks.Tenants.Hasher(n.Tenant)
	tip, err := h.catalog.Tip(ctx, n)
	if err == nil {
		out, err := unchanged(ctx, hasher, remoteView(n, tip), tip.State.ImportDigest, src, size)
		out.ElapsedMs, out.Requests = h.disks.Since(began), publication.Requests(counter)
		return out, err
	}
	if errs.KindOf(err) != errs.NotFound {
		return api.Import{}, err
	}
	session := flush.NewSession(cfg.Store, pin.ForImport(h.disks), h.disks.Random64)
	im := ingest.Importer{
		Session: session, Index: &ingest.MemoryIndex{Refs: map[pack.Hash]pack.Ref{}}, Hasher: hasher, Pages: blockmap.NewPageCache(1<<20).Source(ingest.NoPages{}, hasher),
		Limits: pack.Limits{Blocks: cfg.PackBlocks}, Compression: cfg.Compression,
	}
	out := api.Import{Name: n.String(), Size: size}
	res, digest, err := im.Run(ctx, src, size, &out.BytesRead)
	if err != nil {
		return out, err
	}
	st := h.disks.NewState(n, size)
	st.Root, st.ImportDigest = res.Root, digest
	o, err := h.owners.NewOwner(&st)
	if err != nil {
		return out, err
	}
	g, err := o.OpenFirst(ctx, h.disks.CommitState(&st, commitlog.CauseImport))
	if err != nil {
		return out, err
	}
	if err := o.Release(ctx); err != nil {
		return out, err
	}
	if err := session.Close(ctx); err != nil {
		return out, err
	}
	out.ID, out.Generation = st.ID.String(), g.String()
	out.BlocksFolded, out.BlocksNew, out.BytesUploaded = res.Folded, res.New, res.Uploaded
	out.Requests, out.ElapsedMs = publication.Requests(counter), h.disks.Since(began)
	return out, nil
}
