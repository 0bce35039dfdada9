//! Visits and rewrites plans and expressions with code that is compiled once.
//!
//! DataFusion compiles the way through a tree for each closure that it gets. These methods pass a trait object instead, so
//! that all closures share one way.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// Replaces a node of a tree.
type Rewriting<'a, Node> = &'a mut dyn FnMut(Node) -> Result<Transformed<Node>>;

/// Looks at a node of a tree and says which nodes come next.
type Visiting<'a, Node> = &'a mut dyn FnMut(&Node) -> Result<TreeNodeRecursion>;

/// Visits and rewrites a tree without the subqueries in it.
pub(crate) trait Tree: TreeNode {
    /// Rewrites all nodes, children first; see [`TreeNode::transform_up`].
    fn rewrite_up(self, rewrite: Rewriting<'_, Self>) -> Result<Transformed<Self>> {
        self.transform_up(rewrite)
    }

    /// Rewrites all nodes, parents first; see [`TreeNode::transform_down`].
    fn rewrite_down(self, rewrite: Rewriting<'_, Self>) -> Result<Transformed<Self>> {
        self.transform_down(rewrite)
    }

    /// Visits all nodes, parents first; see [`TreeNode::apply`].
    fn each(&self, visit: Visiting<'_, Self>) -> Result<TreeNodeRecursion> {
        self.apply(visit)
    }

    /// Checks if `is` returns true for a node; see [`TreeNode::exists`].
    fn any(&self, is: &mut dyn FnMut(&Self) -> Result<bool>) -> Result<bool> {
        self.exists(is)
    }
}

impl<Node: TreeNode> Tree for Node {}

/// Visits and rewrites a plan with its subqueries, and its expressions.
pub(crate) trait PlanTree: Sized {
    /// Rewrites all nodes, also in subqueries, children first; see [`LogicalPlan::transform_up_with_subqueries`].
    fn rewrite_all_up(self, rewrite: Rewriting<'_, Self>) -> Result<Transformed<Self>>;

    /// Rewrites the expressions of this node; see [`LogicalPlan::map_expressions`].
    fn rewrite_expressions(self, rewrite: Rewriting<'_, Expr>) -> Result<Transformed<Self>>;

    /// Visits all nodes, also in subqueries, parents first; see [`LogicalPlan::apply_with_subqueries`].
    fn each_node(&self, visit: Visiting<'_, Self>) -> Result<TreeNodeRecursion>;

    /// Visits the expressions of this node; see [`LogicalPlan::apply_expressions`].
    fn each_expression(&self, visit: Visiting<'_, Expr>) -> Result<TreeNodeRecursion>;
}

impl PlanTree for LogicalPlan {
    fn rewrite_all_up(self, rewrite: Rewriting<'_, Self>) -> Result<Transformed<Self>> {
        self.transform_up_with_subqueries(rewrite)
    }

    fn rewrite_expressions(self, rewrite: Rewriting<'_, Expr>) -> Result<Transformed<Self>> {
        self.map_expressions(rewrite)
    }

    fn each_node(&self, visit: Visiting<'_, Self>) -> Result<TreeNodeRecursion> {
        self.apply_with_subqueries(visit)
    }

    fn each_expression(&self, visit: Visiting<'_, Expr>) -> Result<TreeNodeRecursion> {
        self.apply_expressions(visit)
    }
}
