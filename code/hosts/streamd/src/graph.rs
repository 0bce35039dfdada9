//! The graph of a pipeline: sources, stages and sinks.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::plan::Planned;

/// Returns the graph of a planned script as JSON: nodes with their connector or clause, and edges in the direction of the
/// rows.
pub(crate) fn graph(planned: &Planned) -> Value {
    let (mut nodes, mut edges) = (Vec::new(), Vec::new());
    let mut add = |operator: String, description: String, parallelism: usize| {
        nodes.push(json!({
            "nodeId": nodes.len(), "operator": operator, "description": description, "parallelism": parallelism,
        }));
        nodes.len() - 1
    };
    let connector = |name: &str| {
        let table = planned.script.table(name);
        table.and_then(|table| table.option("connector")).unwrap_or("stdout").to_string()
    };
    let source = |name: &String| (name.clone(), format!("source:{}", connector(name)));
    let mut sources = BTreeMap::new();
    for (name, operator) in planned.sources.keys().map(source) {
        sources.insert(name.clone(), add(operator, name, 1));
    }
    let mut sinks = BTreeMap::new();
    for name in &planned.targets {
        if !sinks.contains_key(name) {
            sinks.insert(name.clone(), add(format!("sink:{}", connector(name)), name.clone(), 1));
        }
    }
    for (index, (reads, target)) in planned.pipeline.reads().zip(&planned.targets).enumerate() {
        let stages = planned.pipeline.stages().filter(|(stage, _)| stage.statement == index);
        let kept: Vec<String> = stages.map(|(stage, _)| stage.to_string()).collect();
        let (operator, workers) = match kept.len() {
            0 => ("map", 1),
            _ => ("stateful", planned.workers),
        };
        let description = match kept.len() {
            0 => format!("statement {}", index + 1),
            _ => format!("statement {}, stages {}", index + 1, kept.join(", ")),
        };
        let statement = add(operator.to_string(), description, workers);
        edges.extend(reads.iter().filter_map(|name| Some((*sources.get(name)?, statement))));
        edges.extend(sinks.get(target).map(|sink| (statement, *sink)));
    }
    let edge = |(from, to): (usize, usize)| json!({"srcId": from, "destId": to, "keyType": "", "valueType": "", "edgeType": "Shuffle"});
    json!({"nodes": nodes, "edges": edges.into_iter().map(edge).collect::<Vec<_>>()})
}
