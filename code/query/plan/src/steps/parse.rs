//! Parsing of steps: the statement of each and the tables that it reads.

use std::sync::Arc;

use buzz_catalog::Table;
use buzz_protocol::{Place, QueryError, Result, Step, StepType};
use datafusion::common::TableReference;
use datafusion::sql::parser::Statement;

use crate::missing::missing_table;
use crate::sql::parse_query;

/// A step whose SQL is a query over existing tables.
pub(super) struct ParsedStep<'a> {
    pub(super) step: &'a Step,
    pub(super) statement: Statement,
    /// The table names in the SQL and the source of each.
    pub(super) reads: Vec<(String, Source)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Catalog(usize),
    Step(usize),
}

pub(super) fn parse_steps<'a>(steps: &'a [Step], tables: &[Arc<Table>]) -> Result<Vec<ParsedStep<'a>>> {
    let parse = |(index, step): (usize, &'a Step)| {
        parse_step(index, step, steps, tables).map_err(|error| error.at(Place::Step(step.name.clone())))
    };
    steps.iter().enumerate().map(parse).collect()
}

fn parse_step<'a>(index: usize, step: &'a Step, steps: &[Step], tables: &[Arc<Table>]) -> Result<ParsedStep<'a>> {
    let statement = parse_query(&step.sql)?;
    let (references, _) = datafusion::sql::resolve::resolve_table_references(&statement, true)?;
    let mut reads = Vec::new();
    for reference in references {
        let source = find_source(&reference, index, steps, tables)?;
        reads.push((reference.table().to_string(), source));
    }
    match step.step_type {
        StepType::HBee => check_map_reads(&reads, steps, tables)?,
        StepType::HComb => check_reduce_reads(&reads, tables)?,
    }
    Ok(ParsedStep { step, statement, reads })
}

fn find_source(reference: &TableReference, index: usize, steps: &[Step], tables: &[Arc<Table>]) -> Result<Source> {
    let name = reference.table();
    let same = |other: &str| other == name || other.eq_ignore_ascii_case(name);
    if let Some(catalog) = tables.iter().position(|table| same(&table.name)) {
        return Ok(Source::Catalog(catalog));
    }
    match steps.iter().position(|step| same(&step.name)) {
        Some(earlier) if earlier < index => Ok(Source::Step(earlier)),
        Some(same) if same == index => Err(QueryError::invalid("the step reads itself")),
        Some(_) => Err(QueryError::invalid(format!("it reads the later step `{name}`; put `{name}` before it"))),
        None => {
            let names = tables.iter().map(|table| table.name.as_str()).chain(steps.iter().map(|s| s.name.as_str()));
            Err(missing_table(reference, names))
        }
    }
}

fn check_map_reads(reads: &[(String, Source)], steps: &[Step], tables: &[Arc<Table>]) -> Result<()> {
    if let Some((name, _)) = reads.iter().find(|(_, source)| matches!(source, Source::Step(_))) {
        return Err(QueryError::invalid(format!(
            "an HBee step reads the files of one catalog, but it reads the step `{name}`; make it an HComb step"
        )));
    }
    match reads {
        [_] => Ok(()),
        [] => {
            let table = tables.first().map_or("a catalog", |table| table.name.as_str());
            Err(QueryError::invalid(format!("an HBee step reads the files of one catalog; write FROM {table}")))
        }
        [(first, _), (second, _), ..] => {
            let reducer = steps.iter().find(|step| step.step_type == StepType::HComb);
            let reducer = reducer.map_or("an HComb step", |step| step.name.as_str());
            Err(QueryError::invalid(format!(
                "an HBee step reads the files of one catalog, but it reads `{first}` and `{second}`; write one HBee \
                 step for each and join them in `{reducer}`"
            )))
        }
    }
}

fn check_reduce_reads(reads: &[(String, Source)], tables: &[Arc<Table>]) -> Result<()> {
    let catalog = reads.iter().find_map(|(_, source)| match source {
        Source::Catalog(index) => Some(&tables[*index].name),
        Source::Step(_) => None,
    });
    match catalog {
        Some(name) => Err(QueryError::invalid(format!(
            "an HComb step reads earlier steps, but it reads the catalog `{name}`; write an HBee step \
             \"SELECT … FROM {name}\" and read that"
        ))),
        None => Ok(()),
    }
}
