// Package sealed is JSON with a checksum, for small objects of the store: one changed
// digit must not make a pin keep another pack. docs/formats/pin.md has the bytes.
package sealed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"github.com/paraglide/glide/internal/errs"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mark begins the last line, which no JSON document has.
const mark = "\ncrc32c "

func seal(body []byte) string { return fmt.Sprintf("%s%08x\n", mark, crc32.Checksum(body, castagnoli)) }

// Marshal encodes v and seals it.
func Marshal(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(body, seal(body)...), nil
}

// Open returns what is sealed. What has no seal, as objects of earlier versions, is
// returned as it is, with is false. Damage is errs.Corrupt, or leaves bytes that are no
// JSON; an object that was cut off before its seal has none, so a version that has seals
// must be refused without one.
func Open(raw []byte) (body []byte, is bool, err error) {
	i := bytes.LastIndex(raw, []byte(mark))
	if i < 0 {
		return raw, false, nil
	}
	if body = raw[:i]; string(raw[i:]) != seal(body) {
		return nil, true, errs.New(errs.Corrupt, "its checksum is wrong")
	}
	return body, true, nil
}
