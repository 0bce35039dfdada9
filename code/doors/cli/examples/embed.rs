//! Runs queries in a program of one's own: makes an engine in this process, asks it, and takes the rows as Arrow batches.
//!
//! ```text
//! cargo run --example embed -- data/nyc-taxi-daily
//! ```

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use arrow::util::pretty::pretty_format_batches;
use buzz_cli::compose::local_engine;
use buzz_engine::{Engine, Question};
use buzz_protocol::{Options, Query, QueryError, Result};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<()> {
    let table = std::env::args().nth(1).unwrap_or_else(|| "data/nyc-taxi-daily".to_string());
    // One engine answers any number of queries, also at the same time.
    let engine = local_engine(&Options::default(), 4)?;
    println!("{}", trips_by_payment(engine.as_ref(), &table).await?);
    Ok(())
}

/// Counts the trips of the Delta Lake table at `uri` by payment type, and returns the rows as a text table.
pub(crate) async fn trips_by_payment(engine: &dyn Engine, uri: &str) -> Result<String> {
    let query = json!({
        "sql": "SELECT payment_type, COUNT(*) AS trips FROM trips GROUP BY payment_type ORDER BY trips DESC",
        "catalogs": [{"name": "trips", "type": "DeltaLake", "uri": uri}],
    });
    let (query, _warnings) = Query::parse(&query.to_string(), "an example")?;
    // Relative URIs are resolved against this folder.
    let folder = std::env::current_dir().map_err(|error| QueryError::internal(error.to_string()))?;

    let mut running = engine.start(Question::new(query, folder));
    // `running.progress()` has counts that grow, `running.cancel()` ends the query, and so does dropping it.
    let answer = running.answer().await?;
    let batches = answer.into_rows().batches()?.collect::<Result<Vec<_>>>()?;
    let text = pretty_format_batches(&batches).map_err(|error| QueryError::internal(error.to_string()))?;
    Ok(text.to_string())
}
