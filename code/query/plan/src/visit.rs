//! Visits the nodes of a parsed statement with code that is compiled once.
//!
//! `sqlparser` compiles the way through all of its nodes for each type of visitor, about ten seconds each. These functions
//! pass a visitor as a trait object instead, so that all visitors share one way.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, Query, Select, Statement, TableFactor, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
};

/// Visits `node` and all nodes below it. Returns what the visitor broke with.
pub fn visit<V: Visitor>(node: &impl Visit, visitor: &mut V) -> ControlFlow<V::Break> {
    let mut keeping = Keeping { visitor, broken: None };
    let _: ControlFlow<()> = node.visit(&mut Shared(&mut keeping));
    keeping.broken.map_or(ControlFlow::Continue(()), ControlFlow::Break)
}

/// Visits `node` and all nodes below it with a visitor that may change them. Returns what the visitor broke with.
pub fn visit_mut<V: VisitorMut>(node: &mut impl VisitMut, visitor: &mut V) -> ControlFlow<V::Break> {
    let mut keeping = Keeping { visitor, broken: None };
    let _: ControlFlow<()> = node.visit(&mut SharedMut(&mut keeping));
    keeping.broken.map_or(ControlFlow::Continue(()), ControlFlow::Break)
}

/// Calls `each` with each expression in `node`, those that contain others first. Stops when it returns true, and returns
/// true then.
pub fn any_expression(node: &impl Visit, each: &mut dyn FnMut(&Expr) -> bool) -> bool {
    visit(node, &mut Expressions(each)).is_break()
}

/// Calls `each` with each expression in `node`, those within others first.
pub fn each_expression_mut(node: &mut impl VisitMut, each: &mut dyn FnMut(&mut Expr)) {
    let _: ControlFlow<()> = visit_mut(node, &mut ExpressionsMut(each));
}

/// Calls `each` with each expression in `node` that is in none of its subqueries, those within others first.
pub fn each_own_expression_mut(node: &mut impl VisitMut, each: &mut dyn FnMut(&mut Expr)) {
    let _: ControlFlow<()> = visit_mut(node, &mut OwnExpressionsMut { each, depth: 0 });
}

struct Expressions<'a>(&'a mut dyn FnMut(&Expr) -> bool);

impl Visitor for Expressions<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        if (self.0)(expression) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

struct ExpressionsMut<'a>(&'a mut dyn FnMut(&mut Expr));

impl VisitorMut for ExpressionsMut<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        (self.0)(expression);
        ControlFlow::Continue(())
    }
}

struct OwnExpressionsMut<'a> {
    each: &'a mut dyn FnMut(&mut Expr),
    /// Number of subqueries around the node.
    depth: usize,
}

impl VisitorMut for OwnExpressionsMut<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        if self.depth == 0 {
            (self.each)(expression);
        }
        ControlFlow::Continue(())
    }
}

/// Keeps what a visitor breaks with, so that the visitors of one trait object all break with the same type.
struct Keeping<'a, V, B> {
    visitor: &'a mut V,
    broken: Option<B>,
}

impl<V, B> Keeping<'_, V, B> {
    fn keep(&mut self, flow: ControlFlow<B>) -> ControlFlow<()> {
        flow.map_break(|broken| self.broken = Some(broken))
    }
}

/// Passes the nodes of a statement to a visitor that is a trait object.
struct Shared<'a>(&'a mut dyn Visitor<Break = ()>);

/// Passes the nodes of a statement to a visitor that is a trait object and may change them.
struct SharedMut<'a>(&'a mut dyn VisitorMut<Break = ()>);

macro_rules! pass {
    ($visitor:ident, $shared:ident, $($method:ident: $node:ty),+ $(,)?) => {
        impl<V: $visitor> $visitor for Keeping<'_, V, V::Break> {
            type Break = ();

            $(fn $method(&mut self, node: $node) -> ControlFlow<()> {
                let flow = self.visitor.$method(node);
                self.keep(flow)
            })+
        }

        impl $visitor for $shared<'_> {
            type Break = ();

            $(fn $method(&mut self, node: $node) -> ControlFlow<()> {
                self.0.$method(node)
            })+
        }
    };
}

pass! {
    Visitor, Shared,
    pre_visit_query: &Query, post_visit_query: &Query,
    pre_visit_select: &Select, post_visit_select: &Select,
    pre_visit_relation: &ObjectName, post_visit_relation: &ObjectName,
    pre_visit_table_factor: &TableFactor, post_visit_table_factor: &TableFactor,
    pre_visit_expr: &Expr, post_visit_expr: &Expr,
    pre_visit_statement: &Statement, post_visit_statement: &Statement,
    pre_visit_value: &ValueWithSpan, post_visit_value: &ValueWithSpan,
}

pass! {
    VisitorMut, SharedMut,
    pre_visit_query: &mut Query, post_visit_query: &mut Query,
    pre_visit_select: &mut Select, post_visit_select: &mut Select,
    pre_visit_relation: &mut ObjectName, post_visit_relation: &mut ObjectName,
    pre_visit_table_factor: &mut TableFactor, post_visit_table_factor: &mut TableFactor,
    pre_visit_expr: &mut Expr, post_visit_expr: &mut Expr,
    pre_visit_statement: &mut Statement, post_visit_statement: &mut Statement,
    pre_visit_value: &mut ValueWithSpan, post_visit_value: &mut ValueWithSpan,
}
