//! A query as a tree of clauses, so that clauses can be taken away.

use std::fmt;

/// A join and what it joins to.
#[derive(Debug, Clone)]
pub(crate) struct Join {
    /// As `LEFT JOIN`.
    pub kind: &'static str,
    pub relation: Relation,
    /// The condition; none for a cross join.
    pub on: Option<String>,
}

/// The relation in FROM.
#[derive(Debug, Clone)]
pub(crate) enum Relation {
    /// A table or a common table expression, and its alias.
    Named { name: String, alias: String },
    /// A subquery and its alias.
    Sub { select: Box<Select>, alias: String },
    /// A table function, its alias and the name of its column.
    Function { call: String, alias: String, column: &'static str },
}

impl Relation {
    /// Returns the alias.
    pub(crate) fn alias(&self) -> &str {
        match self {
            Relation::Named { alias, .. } | Relation::Sub { alias, .. } | Relation::Function { alias, .. } => alias,
        }
    }
}

/// A SELECT. Its columns are called `c0`, `c1`, …; ORDER BY names them so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Select {
    pub with: Vec<(String, Select)>,
    pub distinct: bool,
    /// Expressions and their names.
    pub items: Vec<(String, String)>,
    pub from: Option<Relation>,
    pub joins: Vec<Join>,
    /// Conditions that all must hold.
    pub filters: Vec<String>,
    pub group: Vec<String>,
    /// `ROLLUP`, `CUBE`, `GROUPING SETS`, or nothing.
    pub grouping: &'static str,
    pub having: Option<String>,
    pub qualify: Option<String>,
    /// `UNION ALL` or the like, and the other SELECT.
    pub set: Option<(&'static str, Box<Select>)>,
    pub order: Vec<String>,
    /// Count and offset.
    pub limit: Option<(usize, usize)>,
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Relation::Named { name, alias } => write!(f, "{name} {alias}"),
            Relation::Sub { select, alias } => write!(f, "({select}) {alias}"),
            Relation::Function { call, alias, column } => write!(f, "{call} AS {alias}({column})"),
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.with.is_empty() {
            let with: Vec<String> = self.with.iter().map(|(name, select)| format!("{name} AS ({select})")).collect();
            write!(f, "WITH {} ", with.join(", "))?;
        }
        let items: Vec<String> =
            self.items.iter().map(|(expression, name)| format!("{expression} AS {name}")).collect();
        write!(f, "SELECT {}{}", if self.distinct { "DISTINCT " } else { "" }, items.join(", "))?;
        if let Some(from) = &self.from {
            write!(f, " FROM {from}")?;
        }
        for join in &self.joins {
            write!(f, " {} {}", join.kind, join.relation)?;
            if let Some(on) = &join.on {
                write!(f, " ON {on}")?;
            }
        }
        if !self.filters.is_empty() {
            write!(f, " WHERE {}", self.filters.join(" AND "))?;
        }
        if !self.group.is_empty() {
            let keys = self.group.join(", ");
            match self.grouping {
                "" => write!(f, " GROUP BY {keys}")?,
                "GROUPING SETS" => {
                    let first = &self.group[0];
                    write!(f, " GROUP BY GROUPING SETS (({keys}), ({first}), ())")?;
                }
                kind => write!(f, " GROUP BY {kind} ({keys})")?,
            }
        }
        if let Some(having) = &self.having {
            write!(f, " HAVING {having}")?;
        }
        if let Some(qualify) = &self.qualify {
            write!(f, " QUALIFY {qualify}")?;
        }
        if let Some((kind, other)) = &self.set {
            write!(f, " {kind} {other}")?;
        }
        if !self.order.is_empty() {
            write!(f, " ORDER BY {}", self.order.join(", "))?;
        }
        if let Some((count, offset)) = self.limit {
            write!(f, " LIMIT {count}")?;
            if offset > 0 {
                write!(f, " OFFSET {offset}")?;
            }
        }
        Ok(())
    }
}

impl Select {
    /// Queries with one thing less, the ones with most less first. Some of them are not valid SQL.
    pub(crate) fn smaller(&self) -> Vec<Select> {
        let mut all: Vec<Select> = self.with.iter().map(|(_, select)| select.clone()).collect();
        let relations = self.from.iter().chain(self.joins.iter().map(|join| &join.relation));
        all.extend(relations.filter_map(|relation| match relation {
            Relation::Sub { select, .. } => Some(select.as_ref().clone()),
            Relation::Named { .. } | Relation::Function { .. } => None,
        }));
        if let Some((_, other)) = &self.set {
            all.push(other.as_ref().clone());
        }
        let mut without = |change: &dyn Fn(&mut Select)| {
            let mut smaller = self.clone();
            change(&mut smaller);
            if smaller.to_string() != self.to_string() {
                all.push(smaller);
            }
        };
        without(&|select| select.set = None);
        without(&|select| select.limit = None);
        without(&|select| (select.order, select.limit) = (Vec::new(), None));
        without(&|select| select.having = None);
        without(&|select| select.qualify = None);
        without(&|select| select.distinct = false);
        without(&|select| select.grouping = "");
        for index in 0..self.joins.len() {
            without(&|select| select.drop_join(index));
        }
        for index in 0..self.filters.len() {
            without(&|select| drop(select.filters.remove(index)));
        }
        for index in 0..self.group.len() {
            without(&|select| {
                let key = select.group.remove(index);
                select.drop_items(|expression| *expression == key);
            });
        }
        for index in 0..self.items.len() {
            without(&|select| {
                let gone = select.items[index].0.clone();
                select.drop_items(|expression| *expression == gone);
            });
        }
        for index in 0..self.with.len() {
            without(&|select| drop(select.with.remove(index)));
        }
        all.extend(self.with_smaller_parts());
        all.retain(|select| !select.items.is_empty());
        all
    }

    /// Checks if a SELECT of the query filters by a subquery only, without a column of its own, and one aggregates all rows. Plain
    /// DataFusion moves such a condition below the aggregate, which has a row also without rows: `SELECT c FROM (SELECT COUNT(*) AS c
    /// FROM t) x WHERE 1 = (SELECT MAX(k) FROM u)` returns 0 instead of nothing.
    pub(crate) fn filters_a_total(&self) -> bool {
        self.any(&Select::filters_by_subqueries) && self.any(&Select::has_total)
    }

    /// Checks if a SELECT of the query, other than those in expressions, has a property.
    fn any(&self, has: &dyn Fn(&Select) -> bool) -> bool {
        let relations = self.from.iter().chain(self.joins.iter().map(|join| &join.relation));
        let subqueries = relations.filter_map(|relation| match relation {
            Relation::Sub { select, .. } => Some(select.as_ref()),
            Relation::Named { .. } | Relation::Function { .. } => None,
        });
        let with = self.with.iter().map(|(_, select)| select);
        let others = self.set.iter().map(|(_, other)| other.as_ref());
        has(self) || subqueries.chain(with).chain(others).any(|select| select.any(has))
    }

    fn filters_by_subqueries(&self) -> bool {
        let relations = self.from.iter().chain(self.joins.iter().map(|join| &join.relation));
        let marks: Vec<String> = relations.map(|relation| format!("{}.", relation.alias())).collect();
        let conditions = self.filters.iter().chain(&self.having);
        let mut subqueries = conditions.filter(|condition| condition.contains("(SELECT "));
        subqueries.any(|condition| !marks.iter().any(|mark| condition.contains(mark)))
    }

    /// Checks if one row of an aggregate is over all rows.
    fn has_total(&self) -> bool {
        let is_aggregate = |item: &String| {
            ["COUNT(", "SUM(", "MIN(", "MAX(", "AVG(", "STDDEV", "VAR_", "MEDIAN("]
                .iter()
                .any(|call| item.starts_with(call))
                && !item.contains(" OVER ")
        };
        !self.grouping.is_empty() || self.group.is_empty() && self.items.iter().any(|(item, _)| is_aggregate(item))
    }

    fn with_smaller_parts(&self) -> Vec<Select> {
        let mut all = Vec::new();
        for (index, (_, inner)) in self.with.iter().enumerate() {
            all.extend(inner.smaller().into_iter().map(|smaller| {
                let mut select = self.clone();
                select.with[index].1 = smaller;
                select
            }));
        }
        if let Some(Relation::Sub { select: inner, alias }) = &self.from {
            all.extend(inner.smaller().into_iter().map(|smaller| {
                let from = Some(Relation::Sub { select: Box::new(smaller), alias: alias.clone() });
                Select { from, ..self.clone() }
            }));
        }
        for (index, join) in self.joins.iter().enumerate() {
            let Relation::Sub { select: inner, alias } = &join.relation else { continue };
            all.extend(inner.smaller().into_iter().map(|smaller| {
                let mut select = self.clone();
                select.joins[index].relation = Relation::Sub { select: Box::new(smaller), alias: alias.clone() };
                select
            }));
        }
        if let Some((kind, other)) = &self.set {
            all.extend(other.smaller().into_iter().map(|smaller| {
                let mut select = self.clone();
                select.set = Some((kind, Box::new(smaller)));
                select
            }));
        }
        all
    }

    /// Drops items, and what orders by them. A limit without a whole order would choose any rows.
    fn drop_items(&mut self, gone: impl Fn(&String) -> bool) {
        let names: Vec<String> =
            self.items.iter().filter(|(expression, _)| gone(expression)).map(|(_, name)| name.clone()).collect();
        self.items.retain(|(_, name)| !names.contains(name));
        self.order.retain(|order| !names.iter().any(|name| order.split(' ').next() == Some(name)));
    }

    fn drop_join(&mut self, index: usize) {
        let join = self.joins.remove(index);
        let mark = format!("{}.", join.relation.alias());
        self.filters.retain(|filter| !filter.contains(&mark));
        self.group.retain(|key| !key.contains(&mark));
        self.drop_items(|expression| expression.contains(&mark));
        for condition in [&mut self.having, &mut self.qualify] {
            condition.take_if(|text| text.contains(&mark));
        }
    }
}
