//! The tests: no fault changes the output, and each broken rule is found.
//!
//! `BUZZ_EPOCH_RUNS` sets the number of random runs and `BUZZ_EPOCH_SEED` the first seed, `BUZZ_EPOCH_MUTANT_RUNS` the
//! number of runs of each mutant, and `BUZZ_EPOCH_BATCHES` the length of the run that gets a fault at each call. A
//! failure prints the run, which repeats it exactly.

use std::collections::BTreeMap;
use std::time::Instant;

use super::run::{Mutant, Run};
use super::world::{FAULTS, Faults};
use crate::rules::Rule;

/// Random runs by default: a few seconds in a debug build.
const RUNS: u64 = 250;

/// Runs in which each mutant must be found at least once, by default.
const MUTANT_RUNS: u64 = 60;

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not `{text}`")),
        Err(_) => default,
    }
}

fn base(seed: u64) -> Run {
    Run { seed, coordinators: 1, batches: 12, faults: Faults::PerMille(0), moves: false, trims: false, mutant: None }
}

/// Returns a random run: 1 to 3 coordinators, 0 to 6 % faults, and moves in one of five.
fn random(seed: u64) -> Run {
    let faults = Faults::PerMille([0, 5, 20, 60][(seed % 4) as usize]);
    Run { coordinators: 1 + (seed % 3) as usize, faults, moves: seed.is_multiple_of(5), ..base(seed) }
}

/// Runs all of `runs`, prints their figures, and fails with the first wrong run.
fn all_right(title: &str, runs: impl Iterator<Item = Run>) -> BTreeMap<&'static str, u64> {
    let started = Instant::now();
    let (mut count, mut calls) = (0, 0);
    let mut stats = BTreeMap::new();
    for run in runs {
        let outcome = run.run();
        if let Err(what) = outcome.verdict {
            panic!("{title}: {what}\nrepeat it with: {run:?}");
        }
        count += 1;
        calls += outcome.calls;
        for (what, n) in outcome.stats {
            *stats.entry(what).or_default() += n;
        }
    }
    println!("{title}: {count} runs, {calls} calls, {:.1} s, {stats:?}", started.elapsed().as_secs_f64());
    stats
}

#[test]
fn same_run_has_the_same_outcome() {
    let run = Run { coordinators: 3, faults: Faults::PerMille(20), ..base(7) };
    let (a, b) = (run.run(), run.run());
    assert_eq!((a.calls, a.stats), (b.calls, b.stats));
}

/// Runs `run` once for each of its calls and each kind of fault.
fn fault_at_each_call(run: Run) {
    let calls = run.run().calls;
    let runs = (0..calls).flat_map(|at| FAULTS.map(|fault| Run { faults: Faults::At(at, fault), ..run }));
    all_right(&format!("one fault at each of {calls} calls, {} coordinators", run.coordinators), runs);
}

#[test]
fn fault_at_any_call_changes_nothing() {
    let batches = usize::try_from(number("BUZZ_EPOCH_BATCHES", 3)).expect("a small number");
    fault_at_each_call(Run { batches, ..base(1) });
}

#[test]
fn fault_at_any_call_of_racing_coordinators_that_move_changes_nothing() {
    fault_at_each_call(Run { batches: 1, coordinators: 2, moves: true, ..base(2) });
}

#[test]
fn random_faults_and_races_change_nothing() {
    let first = number("BUZZ_EPOCH_SEED", 0);
    let stats = all_right("random faults", (first..first + number("BUZZ_EPOCH_RUNS", RUNS)).map(random));
    // Otherwise the runs would prove little.
    let events = ["epochs", "files deleted", "lost races", "requests repeated", "superseded", "versions"];
    for happened in FAULTS.map(|fault| fault.name()).into_iter().chain(events) {
        assert!(stats.contains_key(happened), "the runs had no {happened}: {stats:?}");
    }
}

/// Returns a long random run in which old entries are removed. A process that opens a long log makes many calls, so few of them
/// fail.
fn trimmed(seed: u64) -> Run {
    let faults = Faults::PerMille([0, 2, 5, 10][(seed % 4) as usize]);
    Run { faults, moves: false, trims: true, batches: 60, coordinators: 1 + (seed % 3) as usize, ..random(seed) }
}

#[test]
fn random_faults_while_old_entries_are_removed_change_nothing() {
    let first = number("BUZZ_EPOCH_SEED", 0);
    let runs = number("BUZZ_EPOCH_RUNS", RUNS) / 25;
    let stats = all_right("random faults and removals", (first..first + runs).map(trimmed));
    for happened in ["epochs", "objects trimmed", "lost races", "requests repeated"] {
        assert!(stats.contains_key(happened), "the runs had no {happened}: {stats:?}");
    }
}

#[test]
fn removal_of_rows_that_no_epoch_has_read_is_found() {
    // A removal that looks neither at what was read nor at keys.
    let runs = number("BUZZ_EPOCH_MUTANT_RUNS", MUTANT_RUNS);
    let wrong = |seed: &u64| {
        let broken = Run { mutant: Some(Mutant::TrimUnread), ..trimmed(*seed) };
        broken.run().verdict.is_err() && trimmed(*seed).run().verdict.is_ok()
    };
    assert!((0..runs).any(|seed| wrong(&seed)), "it was not found in {runs} runs");
}

/// Returns the outcomes of the random runs of `mutant` as (index of the first run that found it, runs that found it).
fn found(mutant: Mutant, runs: u64) -> (Option<u64>, u64) {
    let run = |seed, mutant| Run { coordinators: 2, moves: false, mutant, ..random(seed) }.run();
    let started = Instant::now();
    let wrong: Vec<u64> = (0..runs).filter(|seed| run(*seed, Some(mutant)).verdict.is_err()).collect();
    if let Some(first) = wrong.first() {
        assert_eq!(run(*first, None).verdict, Ok(()), "the run is also wrong without {mutant:?}");
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{mutant:?}: found in {} of {runs} runs, first in {:?}, {seconds:.1} s", wrong.len(), wrong.first());
    (wrong.first().copied(), wrong.len() as u64)
}

fn must_be_found(mutant: Mutant) {
    let runs = number("BUZZ_EPOCH_MUTANT_RUNS", MUTANT_RUNS);
    assert!(found(mutant, runs).0.is_some(), "{mutant:?} was not found in {runs} runs");
}

#[test]
fn sealing_without_deduplication_is_found() {
    must_be_found(Mutant::Without(Rule::Deduplicate));
}

#[test]
fn overwritten_record_is_found() {
    must_be_found(Mutant::Without(Rule::CreateRecords));
}

#[test]
fn target_without_marker_is_found() {
    must_be_found(Mutant::TargetWithoutMarker);
}

#[test]
fn rows_in_the_target_before_the_record_are_found() {
    must_be_found(Mutant::RowsBeforeRecord);
}

#[test]
fn collection_of_files_of_an_unrecorded_epoch_is_found() {
    must_be_found(Mutant::Without(Rule::SpareUnrecorded));
}

#[test]
fn inbox_scanned_from_the_time_of_the_last_entry_is_found() {
    must_be_found(Mutant::Without(Rule::WaitForWrites));
}

#[test]
fn own_record_taken_for_a_lost_race_is_found() {
    must_be_found(Mutant::Without(Rule::RecogniseOwn));
}

#[test]
fn each_kind_of_fault_is_injected_once() {
    for fault in FAULTS {
        let outcome = Run { faults: Faults::At(60, fault), ..base(3) }.run();
        assert_eq!((outcome.verdict, outcome.stats.get(fault.name())), (Ok(()), Some(&1)));
    }
}
