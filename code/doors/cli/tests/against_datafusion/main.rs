//! Many statements, compared with the answers of plain DataFusion on the same Parquet files.
//!
//! The tables are made here. DataFusion's own `.slt` files and the statements of TPC-H come from the crate
//! `datafusion-sqllogictest`, which cargo downloads. Our own `.slt` files are in `tests/sql`. Tests of real tables are ignored on a machine without them.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test reports what it compares")]

#[path = "../common/mod.rs"]
mod common;

mod differential;

mod extremes;

mod inputs;

mod known;

mod parquet;

mod plain;

mod script;

mod slt;

mod stand_ins;

mod tables;

mod tpcds;

mod tpch;

mod verdict;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use differential::Over;
use inputs::Inputs;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

/// The runtime of all tests.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime needs nothing but threads")
});

fn main() {
    let arguments = Arguments::from_args();
    let inputs = Arc::new(Inputs::find().expect("a folder for temporary files can be made"));
    let mut trials = slt_trials(&inputs, "slt", inputs.slt_files().cloned());
    trials.extend(slt_trials(&inputs, "sql", Ok(slt::own_files())));
    for query in 1..=22 {
        let of = |name: &str| format!("{name}::q{query}");
        let plain = Arc::clone(&inputs);
        trials.push(Trial::test(of("tpch_16_files"), move || run(tpch::run(&plain, query))));
        let answers = Arc::clone(&inputs);
        trials.push(Trial::test(of("tpch_answers"), move || run(tpch::answers(&answers, query))));
        let objects = Arc::clone(&inputs);
        trials.push(Trial::test(of("tpch_objects"), move || run(tpch::objects(&objects, query))));
        trials.push(of_shared(&inputs, of("tpch_stored"), move |inputs| run(tpch::stored(inputs, query))));
    }
    for number in 1..=tpcds::STATEMENTS {
        trials.push(Trial::ignorable_test(format!("tpcds::q{number:02}"), move || run(tpcds::run(number))));
    }
    for share in differential::shares(Over::Made) {
        let (inputs, name) = (Arc::clone(&inputs), format!("differential::seed_{}", share.start));
        trials.push(Trial::test(name, move || run(differential::run(&inputs, Over::Made, share))));
    }
    for share in differential::shares(Over::Real) {
        let name = format!("differential_real::seed_{}", share.start);
        trials.push(of_shared(&inputs, name, move |inputs| run(differential::run(inputs, Over::Real, share))));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    slt::report();
    differential::report();
    // Removes the tables: `exit` runs no destructors.
    drop(inputs);
    conclusion.exit();
}

/// Returns a test for each `.slt` file of `folder`, whose name begins with `group`; one that fails if there are no files.
fn slt_trials(inputs: &Arc<Inputs>, group: &str, folder: Result<PathBuf, String>) -> Vec<Trial> {
    let none = |reason: String| vec![Trial::test(format!("{group}::files_are_found"), || Err(reason.into()))];
    let folder = match folder {
        Ok(folder) => Arc::new(folder),
        Err(reason) => return none(reason),
    };
    let files = slt::files(&folder);
    if files.is_empty() {
        return none(format!("{} has no .slt file", folder.display()));
    }
    let lists = Arc::new(slt::lists());
    let mut trials = Vec::new();
    for file in files {
        let name = format!("{group}::{file}");
        let (inputs, folder, lists) = (Arc::clone(inputs), Arc::clone(&folder), Arc::clone(&lists));
        trials.push(Trial::ignorable_test(name, move || run(slt::run(&inputs, &folder, &file, &lists))));
    }
    trials
}

/// Returns a test that is ignored, with a reason, on a machine without the real tables.
fn of_shared(
    inputs: &Arc<Inputs>,
    name: String,
    test: impl FnOnce(&Inputs) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let inputs = Arc::clone(inputs);
    Trial::ignorable_test(name, move || match inputs.shared() {
        Ok(_) => test(&inputs).map(|()| Completion::Completed),
        Err(reason) => Ok(Completion::ignored_with(reason)),
    })
}

fn run<T>(test: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    RUNTIME.block_on(test)
}
