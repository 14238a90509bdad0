package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strings"

	"golang.org/x/tools/go/analysis"
)

// Analyzer is the check.
var Analyzer = &analysis.Analyzer{
	Name:      "nonblocking",
	Doc:       "finds what may block while a lock marked glide:nonblocking is held",
	FactTypes: []analysis.Fact{(*mayBlock)(nil)},
	Run:       run,
}

// mayBlock is the fact that a function may block.
type mayBlock struct{ Ops []op }

func (*mayBlock) AFact() {}

// op is something that may block, and the locks of its caller that a function
// has released by then.
type op struct {
	What     string
	Released []string
}

// event is a point of a function at which something may block: an operation, or
// a call of a function that may.
type event struct {
	pos            token.Pos
	what           string
	callee         *types.Func
	held, released []string
}

// checker is the check of one package.
type checker struct {
	pass        *analysis.Pass
	nonblocking map[types.Object]bool // locks
	marked      map[types.Object]bool // methods and fields that block
	conds       map[types.Object]string
	summaries   map[*types.Func]*mayBlock
}

func run(pass *analysis.Pass) (any, error) {
	if !strings.HasPrefix(pass.Pkg.Path(), module) {
		return nil, nil
	}
	c := &checker{
		pass: pass, nonblocking: map[types.Object]bool{}, marked: map[types.Object]bool{},
		conds: map[types.Object]string{}, summaries: map[*types.Func]*mayBlock{},
	}
	c.readMarks()
	c.readConds()

	var all []event
	events := map[*types.Func][]event{}
	for _, f := range pass.Files {
		for _, d := range f.Decls {
			fd, ok := d.(*ast.FuncDecl)
			if !ok || fd.Body == nil {
				continue
			}
			w := &walker{checker: c}
			w.walk(fd.Body, newState())
			if fn, ok := pass.TypesInfo.Defs[fd.Name].(*types.Func); ok {
				events[fn] = w.events
			}
			all = append(append(all, w.events...), w.apart...)
		}
	}
	c.summarize(events)
	for _, e := range all {
		c.report(e)
	}
	return nil, nil
}

// summarize finds out which functions may block, until nothing is added.
func (c *checker) summarize(events map[*types.Func][]event) {
	for again := true; again; {
		again = false
		for fn, list := range events {
			for _, e := range list {
				for _, o := range c.ops(e) {
					sum := c.summaries[fn]
					if sum == nil {
						sum = &mayBlock{}
						c.summaries[fn] = sum
					}
					o.Released = union(o.Released, e.released)
					if !slices.ContainsFunc(sum.Ops, func(had op) bool { return subset(had.Released, o.Released) }) {
						sum.Ops = append(sum.Ops, o)
						again = true
					}
				}
			}
		}
	}
	for fn, sum := range c.summaries {
		c.pass.ExportObjectFact(fn, sum)
	}
}

// ops is what may block in an event.
func (c *checker) ops(e event) []op {
	if e.callee == nil {
		return []op{{What: e.what}}
	}
	sum := c.summaries[e.callee]
	if sum == nil {
		sum = &mayBlock{}
		if !c.pass.ImportObjectFact(e.callee, sum) {
			return nil
		}
	}
	ops := make([]op, len(sum.Ops))
	for i, o := range sum.Ops {
		what := o.What
		if strings.Count(what, " > ") < 6 { // a chain of calls is cut where it grows long
			what = e.callee.Name() + " > " + what
		}
		ops[i] = op{what, o.Released}
	}
	return ops
}

func (c *checker) report(e event) {
	for _, lock := range e.held {
		for _, o := range c.ops(e) {
			if !slices.Contains(o.Released, lock) {
				c.pass.Reportf(e.pos, "%s may block while %s is held, which is nonblocking", o.What, short(lock))
				break
			}
		}
	}
}

// short takes the path of the package, but for its last part, from a lock's name.
func short(lock string) string { return lock[strings.LastIndexByte(lock, '/')+1:] }

// readMarks finds the marked locks, methods and fields.
func (c *checker) readMarks() {
	mark := func(names []*ast.Ident, groups ...*ast.CommentGroup) {
		for _, g := range groups {
			if g == nil {
				continue
			}
			for _, line := range g.List {
				text := strings.TrimSpace(strings.TrimPrefix(line.Text, "//"))
				for _, id := range names {
					obj := c.pass.TypesInfo.Defs[id]
					switch text {
					case "glide:nonblocking":
						if t := typeName(obj.Type()); t != "sync.Mutex" && t != "sync.RWMutex" {
							c.pass.Reportf(id.Pos(), "%s is marked glide:nonblocking and is no mutex", id.Name)
						}
						c.nonblocking[obj] = true
					case "glide:blocks":
						c.marked[obj] = true
						if fn, ok := obj.(*types.Func); ok {
							c.summaries[fn] = &mayBlock{Ops: []op{{What: id.Name}}}
						}
					}
				}
			}
		}
	}
	for _, f := range c.pass.Files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Field:
				mark(n.Names, n.Doc, n.Comment)
			case *ast.GenDecl:
				for _, s := range n.Specs {
					if v, ok := s.(*ast.ValueSpec); ok {
						mark(v.Names, n.Doc, v.Doc, v.Comment)
					}
				}
			}
			return true
		})
	}
}

// readConds finds which lock a Cond belongs to, as in x.cond = sync.NewCond(&x.mu)
// and x.cond.L = &x.mu.
func (c *checker) readConds() {
	note := func(cond, value ast.Expr) {
		obj := c.object(cond)
		if call, ok := value.(*ast.CallExpr); ok && len(call.Args) == 1 {
			if fn, ok := callee(c.pass.TypesInfo, call).(*types.Func); ok && fullName(fn) == "sync.NewCond" {
				value = call.Args[0]
			}
		}
		if obj == nil {
			return
		}
		if u, ok := value.(*ast.UnaryExpr); ok && u.Op == token.AND {
			if lock := c.object(u.X); lock != nil {
				c.conds[obj] = c.lockName(u.X, lock)
			}
		}
	}
	for _, f := range c.pass.Files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				if len(n.Lhs) == len(n.Rhs) {
					for i, l := range n.Lhs {
						if sel, ok := l.(*ast.SelectorExpr); ok && sel.Sel.Name == "L" {
							l = sel.X
						}
						note(l, n.Rhs[i])
					}
				}
			case *ast.KeyValueExpr:
				note(n.Key, n.Value)
			}
			return true
		})
	}
}

// object is the variable or field that an expression names.
func (c *checker) object(e ast.Expr) types.Object {
	switch e := ast.Unparen(e).(type) {
	case *ast.Ident:
		return c.pass.TypesInfo.ObjectOf(e)
	case *ast.SelectorExpr:
		return c.pass.TypesInfo.ObjectOf(e.Sel)
	}
	return nil
}

// lockName names a lock: by the type that has the field, or the package that has
// the variable.
func (c *checker) lockName(e ast.Expr, obj types.Object) string {
	if sel, ok := ast.Unparen(e).(*ast.SelectorExpr); ok {
		if s := c.pass.TypesInfo.Selections[sel]; s != nil {
			if name := typeName(s.Recv()); name != "" {
				return name + "." + obj.Name()
			}
		}
	}
	return obj.Pkg().Path() + "." + obj.Name()
}

func union(a, b []string) []string {
	if len(b) == 0 {
		return a
	}
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func subset(a, b []string) bool {
	for _, s := range a {
		if !slices.Contains(b, s) {
			return false
		}
	}
	return true
}

// state is what is known at a point of a function.
type state struct {
	held     map[string]bool // nonblocking locks that may be held
	released map[string]bool // locks of the caller that are not held
	dead     bool            // no way leads here
}

func newState() *state { return &state{held: map[string]bool{}, released: map[string]bool{}} }

func (s *state) clone() *state { return &state{maps.Clone(s.held), maps.Clone(s.released), s.dead} }

// join makes s what is known where s and the others meet.
func (s *state) join(others ...*state) {
	for _, o := range others {
		switch {
		case o.dead:
		case s.dead:
			*s = *o.clone()
		default:
			maps.Copy(s.held, o.held)
			maps.DeleteFunc(s.released, func(lock string, _ bool) bool { return !o.released[lock] })
		}
	}
}
