package sealed

import (
	"encoding/json"
	"testing"
)

// TestEveryBit: an object of which one bit is changed is refused.
func TestEveryBit(t *testing.T) {
	raw, err := Marshal(map[string]any{"packs": []string{"65ea8a83081ed58bc32eacf3-0102030405060708090a0b0c"}, "n": 1})
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if body, is, err := Open(raw); err != nil || !is || json.Unmarshal(body, &v) != nil || v["n"] != 1.0 {
		t.Fatalf("%s, %v", body, err)
	}
	for bit := range len(raw) * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		if body, _, err := Open(raw); err == nil && json.Unmarshal(body, &v) == nil {
			t.Errorf("bit %d: %q is taken for %s", bit, raw, body)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
	for n := range raw {
		if body, is, err := Open(raw[:n]); err == nil && is && json.Unmarshal(body, &v) == nil {
			t.Errorf("%q is taken for %s", raw[:n], body)
		}
	}
}

// TestOlder: objects of earlier versions have no seal.
func TestOlder(t *testing.T) {
	const old = `{"version":1}`
	if body, is, err := Open([]byte(old)); err != nil || is || string(body) != old {
		t.Errorf("%s, %v", body, err)
	}
}
