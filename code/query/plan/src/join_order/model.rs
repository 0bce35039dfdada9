//! Chooses an order of joins by estimated rows.

/// Maximum number of relations whose joins are ordered. Choosing takes time with the cube of it.
pub(super) const RELATIONS_MAX: usize = 32;

/// Estimated share of the rows that pass a condition other than an equality.
const OTHER: f64 = 0.33;

/// An order of joins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    /// The relation of this number.
    Relation(usize),
    /// A join of two results; the left one is the build side.
    Join(Box<Shape>, Box<Shape>),
}

impl Shape {
    fn relations(&self) -> u64 {
        match self {
            Shape::Relation(relation) => 1 << relation,
            Shape::Join(left, right) => left.relations() | right.relations(),
        }
    }
}

/// The size of a relation, in rows.
#[derive(Debug, Clone)]
pub(super) struct Relation {
    /// Estimated rows.
    pub(super) rows: f64,
    /// Estimated rows without its filters.
    pub(super) stored: f64,
}

/// A condition between relations.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// The set of its relations.
    relations: u64,
    /// Estimated share of the pairs of rows that pass it.
    share: f64,
    /// True if rows are found by it, so that the pairs are never formed.
    is_key: bool,
}

impl Condition {
    /// Makes the condition that keys with `distinct` values are equal.
    pub(super) fn equal(relations: u64, distinct: f64) -> Self {
        Self { relations, share: 1.0 / distinct.max(1.0), is_key: true }
    }

    /// Makes any other condition.
    pub(super) fn other(relations: u64) -> Self {
        Self { relations, share: OTHER, is_key: false }
    }
}

/// Relations and the conditions between them.
#[derive(Debug)]
pub(super) struct Graph {
    relations: Vec<Relation>,
    conditions: Vec<Condition>,
}

impl Graph {
    /// Makes a graph. Keys of several columns between two relations become one condition, which is not more selective than
    /// a key of the larger relation.
    pub(super) fn new(relations: Vec<Relation>, conditions: Vec<Condition>) -> Self {
        let mut merged: Vec<Condition> = Vec::new();
        for condition in conditions {
            let same = |known: &&mut Condition| known.is_key && known.relations == condition.relations;
            match merged.iter_mut().find(same).filter(|_| condition.is_key) {
                Some(known) => {
                    let stored = members(condition.relations).map(|relation| relations[relation].stored);
                    known.share = (known.share * condition.share).max(1.0 / stored.fold(1.0, f64::max));
                }
                None => merged.push(condition),
            }
        }
        Self { relations, conditions: merged }
    }

    /// Returns the estimated rows of all joins of a set of relations, in any order.
    fn rows(&self, set: u64) -> f64 {
        let rows: f64 = members(set).map(|relation| self.relations[relation].rows).product();
        let within = self.conditions.iter().filter(|condition| condition.relations & !set == 0);
        (rows * within.map(|condition| condition.share).product::<f64>()).max(1.0)
    }

    /// Returns the rows of all relations and of all joins of `shape`.
    pub(super) fn cost(&self, shape: &Shape) -> f64 {
        let own = self.rows(shape.relations());
        match shape {
            Shape::Relation(_) => own,
            Shape::Join(left, right) => own + self.cost(left) + self.cost(right),
        }
    }

    /// Returns the order in which each join is the one with the fewest rows among those that are possible.
    pub(super) fn greedy(&self) -> Shape {
        let mut parts: Vec<Shape> = (0..self.relations.len()).map(Shape::Relation).collect();
        while parts.len() > 1 {
            let (left, right) = self.fewest(&parts);
            let right = parts.swap_remove(right);
            let left = parts.swap_remove(left);
            let (build, probe) =
                if self.rows(left.relations()) <= self.rows(right.relations()) { (left, right) } else { (right, left) };
            parts.push(Shape::Join(Box::new(build), Box::new(probe)));
        }
        parts.pop().unwrap_or(Shape::Relation(0))
    }

    /// Returns the positions, in ascending order, of the two `parts` whose join has the fewest rows. Parts without a common
    /// key are joined last.
    fn fewest(&self, parts: &[Shape]) -> (usize, usize) {
        let sets: Vec<u64> = parts.iter().map(Shape::relations).collect();
        let mut best = (0, 1);
        let mut least = (true, f64::INFINITY);
        for right in 1..sets.len() {
            for left in 0..right {
                let apart = !self.have_key(sets[left], sets[right]);
                let rows = self.rows(sets[left] | sets[right]);
                if (apart, rows) < least {
                    (best, least) = ((left, right), (apart, rows));
                }
            }
        }
        best
    }

    fn have_key(&self, left: u64, right: u64) -> bool {
        let connects = |set: u64| set & left != 0 && set & right != 0 && set & !(left | right) == 0;
        self.conditions.iter().any(|condition| condition.is_key && connects(condition.relations))
    }
}

fn members(set: u64) -> impl Iterator<Item = usize> {
    (0..RELATIONS_MAX).filter(move |relation| set & (1 << relation) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relation(rows: f64, stored: f64) -> Relation {
        Relation { rows, stored }
    }

    fn join(left: Shape, right: Shape) -> Shape {
        Shape::Join(Box::new(left), Box::new(right))
    }

    #[test]
    fn filtered_dimensions_are_joined_to_the_facts_before_other_facts() {
        // Sales, stock and a day; the statement joins sales to stock first, on items.
        let relations = vec![relation(1e6, 1e6), relation(1e7, 1e7), relation(10.0, 1000.0)];
        let conditions = vec![Condition::equal(0b011, 1e4), Condition::equal(0b101, 1000.0)];
        let graph = Graph::new(relations, conditions);
        let written = join(join(Shape::Relation(0), Shape::Relation(1)), Shape::Relation(2));
        let best = graph.greedy();
        assert_eq!(best, join(join(Shape::Relation(2), Shape::Relation(0)), Shape::Relation(1)));
        assert!(graph.cost(&best) * 10.0 < graph.cost(&written), "{} {}", graph.cost(&best), graph.cost(&written));
    }

    #[test]
    fn relations_without_a_common_key_are_joined_last() {
        let relations = vec![relation(2.0, 2.0), relation(3.0, 3.0), relation(1e6, 1e6)];
        let graph = Graph::new(relations, vec![Condition::equal(0b101, 2.0), Condition::other(0b011)]);
        assert_eq!(graph.greedy(), join(Shape::Relation(1), join(Shape::Relation(0), Shape::Relation(2))));
    }

    #[test]
    fn a_key_of_several_columns_is_as_selective_as_the_larger_relation_has_rows() {
        let relations = vec![relation(100.0, 100.0), relation(1000.0, 1000.0)];
        let graph = Graph::new(relations, vec![Condition::equal(0b11, 500.0), Condition::equal(0b11, 500.0)]);
        assert!((graph.rows(0b11) - 100.0).abs() < 1e-6, "{}", graph.rows(0b11));
    }
}
