// Package tap prints the Test Anything Protocol, version 13, for the validation programs of runtime-tools.
//
// They import github.com/mndrix/tap-go, which Debian does not have. This package implements the part of its interface
// that they use. The diagnostic of a test point is JSON, which is also YAML.
package tap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// T counts the test points of one program.
type T struct {
	// TODO marks points that are expected to fail.
	TODO   bool
	Writer io.Writer
	points *int
}

// New begins a program that prints to standard output.
func New() *T {
	return &T{Writer: os.Stdout, points: new(int)}
}

// Header prints the version and, unless it is 0, the number of test points.
func (t *T) Header(plan int) {
	fmt.Fprintln(t.Writer, "TAP version 13")
	if plan > 0 {
		fmt.Fprintf(t.Writer, "1..%d\n", plan)
	}
}

// AutoPlan prints the number of points there were.
func (t *T) AutoPlan() {
	fmt.Fprintf(t.Writer, "1..%d\n", *t.points)
}

// Count is the number of points so far.
func (t *T) Count() int {
	return *t.points
}

// Todo is the same program with its points marked as expected to fail.
func (t *T) Todo() *T {
	return &T{TODO: true, Writer: t.Writer, points: t.points}
}

// Ok is a point that passes if ok is true.
func (t *T) Ok(ok bool, description string) {
	if ok {
		t.Pass(description)
	} else {
		t.Fail(description)
	}
}

// Pass is a point that passes.
func (t *T) Pass(description string) {
	t.point("ok", description)
}

// Fail is a point that fails.
func (t *T) Fail(description string) {
	t.point("not ok", description)
}

// Skip is a number of points that were not tried, with the reason.
func (t *T) Skip(count int, reason string) {
	for ; count > 0; count-- {
		*t.points++
		fmt.Fprintf(t.Writer, "ok %d # SKIP %s\n", *t.points, oneLine(reason))
	}
}

func (t *T) point(result, description string) {
	*t.points++
	todo := ""
	if t.TODO {
		todo = " # TODO"
	}
	fmt.Fprintf(t.Writer, "%s %d%s - %s\n", result, *t.points, todo, oneLine(description))
}

// Diagnostic prints a comment.
func (t *T) Diagnostic(message string) {
	for _, line := range strings.Split(strings.TrimRight(message, "\n"), "\n") {
		fmt.Fprintf(t.Writer, "# %s\n", line)
	}
}

// Diagnosticf prints a formatted comment.
func (t *T) Diagnosticf(format string, values ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, values...))
}

// YAML prints what belongs to the point before it, indented.
func (t *T) YAML(value interface{}) error {
	text, err := json.MarshalIndent(value, "  ", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(t.Writer, "  ---\n  %s\n  ...\n", text)
	return nil
}

// A line break would end the point.
func oneLine(text string) string {
	return strings.ReplaceAll(text, "\n", " ")
}
