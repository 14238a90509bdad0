package host

import (
	"context"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/blockmap"
	"github.com/paraglide/glide/internal/commitlog"
	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/flush"
	"github.com/paraglide/glide/internal/pack"
	"github.com/paraglide/glide/internal/volume"
)

// Import makes a volume of an image, folding and uploading as it reads. The
// same image under the same name again changes nothing.
func (h *Host) Import(ctx context.Context, name string, size uint64, src api.Source) (api.Import, error) {
	began := h.disks.Now()
	ctx, counter := count(ctx)
	n, size, err := importTarget(name, size, src)
	if err != nil {
		return api.Import{}, err
	}
	if err := h.mayGrow(); err != nil {
		return api.Import{}, err
	}
	out := api.Import{Name: n.String(), Size: size}
	defer func() { out.ElapsedMs = h.disks.since(began) }()
	t := h.disks.tenant(n.Tenant)
	st := h.disks.newState(n, size)
	d := newDisk(h.disks, st)
	d.op.Lock() // who imports the same waits for it
	defer d.op.Unlock()
	for {
		old, digest, err := h.imported(ctx, n)
		if err == nil && old != nil {
			out, err = unchanged(ctx, t.hasher, *old, digest, src, size)
		}
		if err != nil || old != nil {
			out.ElapsedMs, out.Requests = h.disks.since(began), requests(counter)
			return out, err
		}
		if h.disks.reserve(d) == nil {
			break
		}
	}
	end := h.publisher.Session.Begin()
	defer func() { end(context.WithoutCancel(ctx)) }()
	im := importer{session: h.publisher.Session, index: t.index, hasher: t.hasher, pages: t.pages, limits: pack.Limits{Blocks: h.publisher.PackBlocks}, compression: h.publisher.Compression, keep: t.domain.Keep, keepPage: h.publisher.keepPage}
	res, digest, err := im.run(ctx, src, size, &out.BytesRead)
	var release func(context.Context)
	if err == nil {
		if release, err = h.publisher.pinReused(ctx, t, &res); err == nil {
			defer func() { release(context.WithoutCancel(ctx)) }()
		}
	}
	if err == nil {
		err = h.commitImport(ctx, d, &st, res.Root, digest)
	}
	if err != nil {
		h.disks.unreserve(d)
		if errs.KindOf(err) == errs.Exists && digest != "" { // another host was faster
			if old, theirs, gone := h.imported(ctx, n); gone == nil && old != nil && theirs == digest && old.Size == size {
				out.ID, out.Generation, out.Unchanged, err = old.ID, old.Generation, true, nil
				out.Requests = requests(counter)
			}
		}
		return out, err
	}
	d.stored.Add(int64(res.Uploaded))
	h.publisher.Dedup.Add(res.Hits)
	out.ID, out.Generation = st.ID.String(), generation(d.state().Published).String()
	out.BlocksFolded, out.BlocksNew, out.BytesUploaded = res.Folded, res.New, res.Uploaded
	out.Requests, out.ElapsedMs = requests(counter), h.disks.since(began)
	return out, nil
}

func importTarget(name string, size uint64, src api.Source) (Name, uint64, error) {
	n, err := ParseName(name, false)
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
	return n, size, CheckSize(size)
}

// imported finds a volume that has the name already, here or in the store. One
// that is being imported here is waited for.
func (h *Host) imported(ctx context.Context, n Name) (*api.Volume, string, error) {
	for d := h.disks.find(n); d != nil; d = h.disks.find(n) {
		d.op.Lock()
		v, digest := h.view(d), d.state().ImportDigest
		d.op.Unlock()
		if h.disks.find(n) == d { // it was not given up meanwhile
			return &v, digest, nil
		}
	}
	tip, err := h.catalog.tip(ctx, n)
	if errs.KindOf(err) == errs.NotFound && err != nil {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	v := remoteView(n, tip)
	return &v, tip.State.ImportDigest, nil
}

// unchanged reads an image whose name is taken: if the volume was imported from
// the same one there is nothing to do.
func unchanged(ctx context.Context, hasher *pack.Hasher, old api.Volume, digest string, src api.Source, size uint64) (api.Import, error) {
	out := api.Import{Name: old.Name, ID: old.ID, Size: old.Size, Generation: old.Generation}
	if digest != "" && old.Size == size {
		got, err := digestOf(ctx, hasher, src, size, &out.BytesRead)
		if err != nil {
			return out, err
		}
		if got == digest {
			out.Unchanged = true
			return out, nil
		}
	}
	return out, errs.New(errs.Exists, "a volume %q exists already, and was not made from this image: import it under another name, or glide rm %s first", old.Name, old.Name)
}

// commitImport publishes an imported volume and brings it up. Under op.
func (h *Host) commitImport(ctx context.Context, d *disk, st *volume.State, root blockmap.Root, digest string) error {
	st.Root, st.RootBlocks, st.ImportDigest = root, st.Blocks(), digest
	d.setRecord(st)
	g, err := h.owners.commit(ctx, d, h.disks.commitState(st, commitlog.CauseImport))
	if err != nil {
		return err
	}
	st.Published = &volume.Published{Epoch: g.Epoch, Number: g.Number}
	if err := h.disks.save(st); err != nil {
		return err
	}
	if err := h.owners.firstDone(d, st); err != nil {
		return err
	}
	v, err := volume.Open(h.disks.env(h.disks.tenant(st.Tenant)), *st, false)
	if err != nil {
		return err
	}
	d.adopt(v)
	return nil
}

// ImportToStore is Import without a daemon: the volume is left in the store,
// held by nobody, for any host to wake.
func ImportToStore(ctx context.Context, cfg Config, name string, size uint64, src api.Source) (api.Import, error) {
	if cfg.Data == "" {
		cfg.Data = "-" // there is none
	}
	if err := cfg.fill(); err != nil {
		return api.Import{}, err
	}
	began := cfg.Now()
	ctx, counter := count(ctx)
	n, size, err := importTarget(name, size, src)
	if err != nil {
		return api.Import{}, err
	}
	h := newHost(cfg)
	defer h.stop()
	h.disks.HostID = "import-" + short(newVolumeID(h.disks))
	hasher := pack.NewHasher(n.Tenant)
	tip, err := h.catalog.tip(ctx, n)
	if err == nil {
		out, err := unchanged(ctx, hasher, remoteView(n, tip), tip.State.ImportDigest, src, size)
		out.ElapsedMs, out.Requests = h.disks.since(began), requests(counter)
		return out, err
	}
	if errs.KindOf(err) != errs.NotFound {
		return api.Import{}, err
	}
	session := flush.NewSession(cfg.Store, StorePins{h.disks}, h.disks.random64)
	im := importer{
		session: session, index: &memoryIndex{refs: map[pack.Hash]pack.Ref{}}, hasher: hasher, pages: blockmap.NewPageCache(1<<20).Source(noPages{}, hasher),
		limits: pack.Limits{Blocks: cfg.PackBlocks}, compression: cfg.Compression,
	}
	out := api.Import{Name: n.String(), Size: size}
	res, digest, err := im.run(ctx, src, size, &out.BytesRead)
	if err != nil {
		return out, err
	}
	st := h.disks.newState(n, size)
	st.Root, st.ImportDigest = res.Root, digest
	o, err := h.owners.newOwner(&st)
	if err != nil {
		return out, err
	}
	g, err := o.OpenFirst(ctx, h.disks.commitState(&st, commitlog.CauseImport))
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
	out.Requests, out.ElapsedMs = requests(counter), h.disks.since(began)
	return out, nil
}
