package main

import (
	"encoding/json"
	"fmt"
	"html"
	"os"
	"strings"
)

// result is what one cell came to. Ratios are medians of the pairs, by peer.
type result struct {
	Name   string               `json:"name"`
	State  string               `json:"state"`
	IOPS   float64              `json:"iops"`
	P50    float64              `json:"p50_us"`
	P99    float64              `json:"p99_us"`
	P999   float64              `json:"p999_us"`
	Floor  float64              `json:"floor"`
	Ratios map[string]float64   `json:"ratios"`
	Pairs  map[string][]float64 `json:"pairs"`
}

func (r *result) print(peers []string) {
	fmt.Printf("%-50s %-9s %8.0f %6.1f", r.Name, r.State, r.IOPS, r.Floor)
	for _, p := range peers {
		fmt.Printf(" %8.2f", r.Ratios[p])
	}
	var each []string
	for _, x := range r.Pairs[peers[0]] {
		each = append(each, fmt.Sprintf("%.2f", x))
	}
	miss := ""
	if x, ok := r.Ratios["file"]; ok && x < r.Floor {
		miss = "  below the floor"
	}
	fmt.Printf("   %-18s %8.0f %8.0f %8.0f%s\n", strings.Join(each, " "), r.P50, r.P99, r.P999, miss)
}

// report is all that a run measured.
type report struct {
	Cells  []result  `json:"cells"`
	Beside []figure  `json:"beside"` // a writer on the same disk
	Fair   []fairRow `json:"fair"`   // work for another volume
	Far    []figure  `json:"far"`    // what depends on the store

	Collecting []figure `json:"collecting"` // beside rounds of garbage collection
}

// write writes a report as JSON, and its cells as a plot.
func write(name string, r report) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".json", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(name+".svg", []byte(plot(r.Cells)), 0o644)
}

// compare is an error if a ratio to nbdkit file is lower than the one that was
// measured before, by more than the margin.
func compare(name string, results []result, margin float64) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var before report
	if err := json.Unmarshal(b, &before); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	was := map[string]float64{}
	for _, r := range before.Cells {
		was[r.State+" "+r.Name] = r.Ratios["file"]
	}
	var lower []string
	for _, r := range results {
		old, now := was[r.State+" "+r.Name], r.Ratios["file"]
		if old > 0 && now < old*(1-margin) {
			lower = append(lower, fmt.Sprintf("%s (%s): %.2f, and %.2f before", r.Name, r.State, now, old))
		}
	}
	if len(lower) > 0 {
		return fmt.Errorf("slower than before by more than %.0f %%:\n  %s", margin*100, strings.Join(lower, "\n  "))
	}
	fmt.Printf("no ratio is lower than in %s by more than %.0f %%\n", name, margin*100)
	return nil
}

// plot draws the ratios to nbdkit file as bars, an SVG: 1 is a plain file.
func plot(results []result) string {
	const row, left, scale, top = 26, 430, 110, 50
	colors := map[string]string{published: "#2a6fdb", folded: "#7a4fc9", inLog: "#2f9e6e"}
	var s strings.Builder
	height := top + row*len(results) + 30
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="1000" height="%d" font-family="sans-serif" font-size="13">`+"\n", height)
	fmt.Fprintf(&s, `<rect width="100%%" height="100%%" fill="white"/><text x="10" y="24" font-size="15">IOPS of glide, as a multiple of nbdkit file on the same disk</text>`+"\n")
	for i, r := range results {
		y := top + row*i
		w := min(r.Ratios["file"], 5) * scale
		fmt.Fprintf(&s, `<text x="10" y="%d">%s</text><text x="340" y="%d" fill="%s">%s</text>`, y+15, html.EscapeString(r.Name), y+15, colors[r.State], r.State)
		fmt.Fprintf(&s, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d">%.2f</text>`+"\n", left, y+2, w, row-8, colors[r.State], left+w+6, y+15, r.Ratios["file"])
	}
	fmt.Fprintf(&s, `<line x1="%d" y1="%d" x2="%d" y2="%d" stroke="#c33" stroke-dasharray="4 3"/><text x="%d" y="%d" fill="#c33">a plain file</text>`+"\n", left+scale, top-6, left+scale, height-24, left+scale+4, height-10)
	s.WriteString("</svg>\n")
	return s.String()
}
