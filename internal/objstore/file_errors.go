package objstore

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/paraglide/glide/internal/errs"
)

// transientErrnos are errors of a network file system, or of a machine that is
// out of something for the moment.
var transientErrnos = []error{
	syscall.ESTALE, syscall.ETIMEDOUT, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, syscall.ENOTCONN, syscall.EAGAIN,
	syscall.EINTR, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM,
}

// fail gives the error of a file operation its kind and says what to do.
func (f *fileStore) fail(op Op, key string, err error) error {
	writes := op == OpPut || op == OpPutIfAbsent || op == OpDelete || op == OpDeleteBatch
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return errs.New(errs.NoSpace, "%s %s: the disk of %s is full; make room there: %w", op, key, f, err)
	case errors.Is(err, syscall.EROFS), writes && errors.Is(err, fs.ErrPermission):
		return errs.New(errs.ReadOnly, "%s %s: %s cannot be written; remount it or change its owner: %w", op, key, f, err)
	case errors.Is(err, fs.ErrPermission):
		return persistent(errs.New(errs.Unavailable, "%s %s: %s cannot be read; change its owner: %w", op, key, f, err))
	case errors.Is(err, fs.ErrExist) && op == OpPutIfAbsent:
		return exists(op, key, f.String())
	case isAbsent(err) && !f.present():
		return f.vanished(op, key)
	case writes && (isAbsent(err) || errors.Is(err, fs.ErrExist)):
		return errs.New(errs.Invalid, "%s %s: it, or a part of it, is the directory of other keys in %s: %w", op, key, f, err)
	case isAbsent(err):
		return absent(op, key, f.String())
	case errors.Is(err, syscall.ENOTSUP), errors.Is(err, syscall.EXDEV), errors.Is(err, syscall.EMLINK):
		return errs.New(errs.Unsupported, "%s %s: the file system of %s cannot link files; keep the store elsewhere: %w", op, key, f, err)
	}
	for _, t := range transientErrnos {
		if errors.Is(err, t) {
			return errs.New(errs.Unavailable, "%s %s in %s: %w", op, key, f, err)
		}
	}
	return errs.New(errs.Internal, "%s %s in %s: %w", op, key, f, err)
}

func (f *fileStore) vanished(op Op, key string) error {
	return persistent(errs.New(errs.Unavailable, "%s %s: the directory of %s is gone; mount or restore it", op, key, f))
}
