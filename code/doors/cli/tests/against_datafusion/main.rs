//! Many statements, compared with what plain DataFusion answers on the same Parquet files.
//!
//! The scripts and tables are looked for where [`buzz_testkit::shared_data`] says; where there are none, every test counts
//! as ignored and says so.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test reports what it compares")]

#[path = "../common/mod.rs"]
mod common;

mod differential;

mod known;

mod parquet;

mod plain;

mod script;

mod slt;

mod shared_tables;

mod stand_ins;

mod tpch;

mod verdict;

use std::sync::LazyLock;

use buzz_testkit::shared_data;
use known::Known;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

/// One for all tests.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime needs nothing but threads")
});

fn main() {
    let arguments = Arguments::from_args();
    let data = shared_data();
    if data.is_none() {
        println!("no real tables: neither BUZZ_TEST_DATA nor ../shared/data is a folder; their tests are ignored");
    }
    let absent = data.is_none();
    let data = data.unwrap_or_default();
    let known = Known::read();

    let mut trials = Vec::new();
    for file in slt::files(&data.join("sql/datafusion-slt")) {
        for zones in slt::ZONES {
            let (data, file, known) = (data.clone(), file.clone(), known.clone());
            let name = format!("slt::{file}::zones_{zones}");
            trials.push(Trial::test(name, move || run(slt::run(&data, &file, zones, known))));
        }
    }
    for query in 1..=22 {
        let data = data.clone();
        trials.push(Trial::test(format!("tpch_16_files::q{query}"), move || run(tpch::run(&data, query))));
    }
    for share in differential::shares() {
        let data = data.clone();
        let name = format!("differential::seed_{}", share.start);
        trials.push(Trial::test(name, move || run(differential::run(&data, share))));
    }
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(absent)).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    slt::report();
    differential::report();
    conclusion.exit();
}

fn run(test: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    RUNTIME.block_on(test)
}
