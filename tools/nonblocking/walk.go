package main

import (
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"slices"

	"golang.org/x/tools/go/types/typeutil"
)

// walker goes through one function in the order in which it runs.
type walker struct {
	*checker
	events []event // of the function
	apart  []event // of literals in it that run at another time
	breaks []*state
}

func callee(info *types.Info, call *ast.CallExpr) types.Object { return typeutil.Callee(info, call) }

// add notes that something may block here.
func (w *walker) add(s *state, pos token.Pos, what string, fn *types.Func) {
	if s.dead {
		return
	}
	w.events = append(w.events, event{
		pos: pos, what: what, callee: fn,
		held: slices.Sorted(maps.Keys(s.held)), released: slices.Sorted(maps.Keys(s.released)),
	})
}

// literal goes through a function literal that runs at another time.
func (w *walker) literal(body *ast.BlockStmt) {
	l := &walker{checker: w.checker}
	l.walk(body, newState())
	w.apart = append(append(w.apart, l.events...), l.apart...)
}

func (w *walker) list(list []ast.Stmt, s *state) {
	for _, n := range list {
		w.walk(n, s)
	}
}

// walk goes through a statement, and changes s to what is known after it.
func (w *walker) walk(n ast.Stmt, s *state) {
	switch n := n.(type) {
	case nil:
	case *ast.BlockStmt:
		w.list(n.List, s)
	case *ast.LabeledStmt:
		w.walk(n.Stmt, s)
	case *ast.ExprStmt:
		w.expr(n.X, s)
		if call, ok := n.X.(*ast.CallExpr); ok {
			if b, ok := callee(w.pass.TypesInfo, call).(*types.Builtin); ok && b.Name() == "panic" {
				s.dead = true
			}
		}
	case *ast.SendStmt:
		w.expr(n.Chan, s)
		w.expr(n.Value, s)
		w.add(s, n.Pos(), "a send to a channel", nil)
	case *ast.GoStmt:
		w.call(n.Call, s, true)
	case *ast.DeferStmt:
		if w.lockCall(n.Call) == "" {
			w.call(n.Call, s.clone(), false)
		}
	case *ast.ReturnStmt:
		w.exprs(n.Results, s)
		s.dead = true
	case *ast.BranchStmt:
		if n.Tok == token.BREAK && len(w.breaks) > 0 {
			w.breaks[len(w.breaks)-1].join(s)
		}
		s.dead = n.Tok != token.FALLTHROUGH
	case *ast.IfStmt:
		w.walk(n.Init, s)
		w.expr(n.Cond, s)
		then, other := s.clone(), s
		if call, not := tried(n.Cond); call != nil && w.lockCall(call) == "TryLock" {
			if not {
				w.acquire(call, other)
			} else {
				w.acquire(call, then)
			}
		}
		w.walk(n.Body, then)
		w.walk(n.Else, other)
		s.join(then)
	case *ast.ForStmt:
		w.walk(n.Init, s)
		w.loop(s, n.Cond == nil, func(s *state) {
			if n.Cond != nil {
				w.expr(n.Cond, s)
			}
		}, func(s *state) {
			w.walk(n.Body, s)
			w.walk(n.Post, s)
		})
	case *ast.RangeStmt:
		w.expr(n.X, s)
		_, isChan := types.Unalias(w.pass.TypesInfo.TypeOf(n.X)).Underlying().(*types.Chan)
		w.loop(s, false, func(s *state) {
			if isChan {
				w.add(s, n.Pos(), "a receive from a channel", nil)
			}
		}, func(s *state) { w.walk(n.Body, s) })
	case *ast.SwitchStmt:
		w.walk(n.Init, s)
		if n.Tag != nil {
			w.expr(n.Tag, s)
		}
		w.cases(n.Body, s)
	case *ast.TypeSwitchStmt:
		w.walk(n.Init, s)
		w.walk(n.Assign, s)
		w.cases(n.Body, s)
	case *ast.SelectStmt:
		w.selects(n, s)
	case *ast.AssignStmt:
		w.exprs(n.Rhs, s)
		w.exprs(n.Lhs, s)
	case *ast.IncDecStmt:
		w.expr(n.X, s)
	case *ast.DeclStmt:
		if d, ok := n.Decl.(*ast.GenDecl); ok {
			for _, sp := range d.Specs {
				if v, ok := sp.(*ast.ValueSpec); ok {
					w.exprs(v.Values, s)
				}
			}
		}
	}
}

// loop goes through a loop: twice, as what its body leaves held is held at its
// beginning.
func (w *walker) loop(s *state, forever bool, head, body func(*state)) {
	out := &state{dead: true}
	w.breaks = append(w.breaks, out)
	head(s)
	once := s.clone()
	body(once)
	if !once.dead && !maps.Equal(once.held, s.held) {
		s.join(once)
		head(s)
		body(s.clone())
	}
	w.breaks = w.breaks[:len(w.breaks)-1]
	s.dead = s.dead || forever
	s.join(out)
}

// cases goes through the clauses of a switch.
func (w *walker) cases(body *ast.BlockStmt, s *state) {
	out := &state{dead: true}
	w.breaks = append(w.breaks, out)
	whole := false
	for _, c := range body.List {
		c := c.(*ast.CaseClause)
		w.exprs(c.List, s)
		whole = whole || c.List == nil
		in := s.clone()
		w.list(c.Body, in)
		out.join(in)
	}
	w.breaks = w.breaks[:len(w.breaks)-1]
	s.dead = s.dead || whole
	s.join(out)
}

func (w *walker) selects(n *ast.SelectStmt, s *state) {
	waits := true
	for _, c := range n.Body.List {
		waits = waits && c.(*ast.CommClause).Comm != nil
	}
	if waits {
		w.add(s, n.Pos(), "a select without a default", nil)
	}
	out := &state{dead: true}
	w.breaks = append(w.breaks, out)
	for _, c := range n.Body.List {
		c := c.(*ast.CommClause)
		in := s.clone()
		if c.Comm != nil {
			ast.Inspect(c.Comm, func(n ast.Node) bool { // its operands: the wait has been noted
				if call, ok := n.(*ast.CallExpr); ok {
					w.call(call, in, false)
					return false
				}
				return true
			})
		}
		w.list(c.Body, in)
		out.join(in)
	}
	w.breaks = w.breaks[:len(w.breaks)-1]
	*s = *out
}

func (w *walker) exprs(list []ast.Expr, s *state) {
	for _, e := range list {
		w.expr(e, s)
	}
}

func (w *walker) expr(e ast.Expr, s *state) {
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			w.literal(n.Body)
			return false
		case *ast.CallExpr:
			w.call(n, s, false)
			return false
		case *ast.UnaryExpr:
			if n.Op == token.ARROW {
				w.expr(n.X, s)
				w.add(s, n.Pos(), "a receive from a channel", nil)
				return false
			}
		}
		return true
	})
}

// call goes through a call: its operands, and then itself. That of a go
// statement runs at another time.
func (w *walker) call(n *ast.CallExpr, s *state, goes bool) {
	fn, _ := callee(w.pass.TypesInfo, n).(*types.Func)
	later := goes || fn != nil && (fn.Name() == "Go" || fn.Name() == "AfterFunc" || fn.Name() == "OnceFunc")
	operand := func(e ast.Expr, later bool) {
		lit, ok := ast.Unparen(e).(*ast.FuncLit)
		switch {
		case !ok:
			w.expr(e, s)
		case later:
			w.literal(lit.Body)
		default:
			in := s.clone()
			w.walk(lit.Body, in)
		}
	}
	operand(n.Fun, goes)
	for _, a := range n.Args {
		operand(a, later)
	}
	if goes {
		return
	}
	if kind := w.lockCall(n); kind != "" {
		switch kind {
		case "Lock", "RLock":
			w.acquire(n, s)
		case "Unlock", "RUnlock":
			w.release(n, s)
		}
		return
	}
	if fn == nil {
		if obj := w.object(n.Fun); obj != nil && w.marked[obj] {
			w.add(s, n.Pos(), obj.Name(), nil)
		}
		return
	}
	fn = fn.Origin()
	switch {
	case fullName(fn) == "sync.Cond.Wait":
		in := s.clone()
		if sel, ok := n.Fun.(*ast.SelectorExpr); ok {
			if lock := w.conds[w.object(sel.X)]; lock != "" {
				delete(in.held, lock)
				in.released[lock] = true
			}
		}
		w.add(in, n.Pos(), "sync.Cond.Wait", nil)
	case blocks(fn, w.receiver(n)):
		w.add(s, n.Pos(), short(fullName(fn)), nil)
	default:
		w.add(s, n.Pos(), "", fn)
	}
}

// receiver is the type of what a method is called on; nil for a function.
func (w *walker) receiver(n *ast.CallExpr) types.Type {
	if sel, ok := ast.Unparen(n.Fun).(*ast.SelectorExpr); ok {
		if s := w.pass.TypesInfo.Selections[sel]; s != nil {
			return s.Recv()
		}
	}
	return nil
}

// lockCall is the method of a mutex that a call calls, or nothing.
func (w *walker) lockCall(n *ast.CallExpr) string {
	fn, ok := callee(w.pass.TypesInfo, n).(*types.Func)
	if !ok {
		return ""
	}
	switch owner, name, _ := cutLast(fullName(fn)); owner {
	case "sync.Mutex", "sync.RWMutex":
		if name == "TryRLock" {
			name = "TryLock"
		}
		return name
	}
	return ""
}

// tried is the call that a condition is, and whether it is negated.
func tried(e ast.Expr) (call *ast.CallExpr, not bool) {
	if u, ok := e.(*ast.UnaryExpr); ok && u.Op == token.NOT {
		e, not = u.X, true
	}
	call, _ = e.(*ast.CallExpr)
	return call, not
}

// lock is the mutex of a call of one of its methods, and its name.
func (w *walker) lock(n *ast.CallExpr) (types.Object, string) {
	sel, ok := ast.Unparen(n.Fun).(*ast.SelectorExpr)
	if !ok {
		return nil, ""
	}
	obj := w.object(sel.X)
	if obj == nil || obj.Pkg() == nil {
		return nil, ""
	}
	return obj, w.lockName(sel.X, obj)
}

func (w *walker) acquire(n *ast.CallExpr, s *state) {
	obj, name := w.lock(n)
	if obj == nil {
		return
	}
	if w.nonblocking[obj] {
		if s.released[name] {
			delete(s.released, name)
		} else {
			s.held[name] = true
		}
	} else if kind := w.lockCall(n); kind != "TryLock" {
		w.add(s, n.Pos(), "a wait for the lock "+short(name)+", which may be held for long,", nil)
	}
}

func (w *walker) release(n *ast.CallExpr, s *state) {
	obj, name := w.lock(n)
	if !w.nonblocking[obj] {
		return
	}
	if !s.held[name] {
		s.released[name] = true
	}
	delete(s.held, name)
}
