package api

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/paraglide/glide/internal/errs"
	"github.com/paraglide/glide/internal/nearest"
)

// maxBody bounds a request in JSON, in bytes.
const maxBody = 1 << 20

// decode reads a request's body into *in. It ignores nothing: unknown fields, and
// anything after the document, are errors. A missing body is the zero value.
func decode(w http.ResponseWriter, r *http.Request, in any) error {
	body := http.MaxBytesReader(w, r.Body, maxBody)
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(in)
	if err == io.EOF {
		return nil
	}
	if err == nil {
		if _, err = d.Token(); err == io.EOF {
			return nil
		}
		if err == nil {
			return errs.New(errs.Invalid, "the request has something behind its JSON document")
		}
	}
	return badJSON(err, reflect.TypeOf(in).Elem())
}

// badJSON says what is wrong with a request of the type.
func badJSON(err error, t reflect.Type) error {
	var tooLarge *http.MaxBytesError
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &tooLarge):
		return errs.New(errs.Invalid, "the request has more than %d bytes", tooLarge.Limit)
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return errs.New(errs.Invalid, "%s cannot be a %s", wrongType.Field, wrongType.Value)
	case errors.As(err, &wrongType):
		return errs.New(errs.Invalid, "the request cannot be a %s", wrongType.Value)
	case errors.As(err, &syntax):
		return errs.New(errs.Invalid, "the request is not JSON: %w at byte %d", err, syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errs.New(errs.Invalid, "the request is not JSON: it ends early")
	}
	// encoding/json has no type for this error.
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return errs.New(errs.Invalid, "the field %.100s is not known here%s", field, nearest.Hint(strings.Trim(field, `"`), fieldNames(t)))
	}
	return errs.New(errs.Invalid, "the request cannot be read: %w", err)
}

// fieldNames lists the JSON names of a struct's fields.
func fieldNames(t reflect.Type) []string {
	if t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// encode answers with v in JSON; None is an empty answer.
func encode(w http.ResponseWriter, status int, v any) error {
	if _, none := v.(None); none {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b))) // so that it is whole when flushed
	w.WriteHeader(status)
	// If the client does not read its answer, there is nobody to report to.
	_, _ = w.Write(b)
	return nil
}
