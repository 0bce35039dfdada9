//! Tests that every [`Engine`] passes. Each takes an engine and questions that fit its tables.

use std::time::Duration;

use buzz_protocol::{ErrorKind, Format, QueryError, QueryId};

use crate::{Content, Engine, Question, Want};

/// Time within which a cancelled query ends.
const CANCELLED_WITHIN: Duration = Duration::from_secs(60);

/// Copies `question` under a fresh id.
fn again(question: &Question) -> Question {
    Question { id: QueryId::fresh(), ..question.clone() }
}

/// Requests the plan of `question` and checks that the answer is a plan, that nothing ran, and that the plan names
/// `step`.
///
/// # Panics
/// If the engine breaks the contract.
pub async fn a_plan_runs_nothing(engine: &dyn Engine, question: &Question, step: &str) {
    let mut running = engine.start(again(question).with_want(Want::Plan));
    let answer = running.answer().await.expect("the plan of a correct query");
    let Content::Plan(text) = answer.content else { panic!("rows instead of a plan") };
    assert!(text.contains(step), "the plan does not name `{step}`: {text}");
    assert_eq!(answer.summary.tasks, 0, "a plan has run tasks");
}

/// Starts `question` twice at the same time and checks that both answers have `rows` rows under their own ids.
///
/// # Panics
/// If the engine breaks the contract.
pub async fn questions_run_at_the_same_time(engine: &dyn Engine, question: &Question, rows: u64) {
    let mut running = [engine.start(again(question)), engine.start(again(question))];
    let [one, two] = &mut running;
    let (one, two) = tokio::join!(one.answer(), two.answer());
    for answer in [one, two] {
        let answer = answer.expect("an answer to a correct query");
        assert_eq!(answer.summary.rows, rows);
        let Content::Rows(kept) = answer.content else { panic!("a plan instead of rows") };
        let batches = kept.batches().expect("kept rows can be read");
        let counted: usize = batches.map(|batch| batch.expect("kept rows can be read").num_rows()).sum();
        assert_eq!(counted as u64, rows);
    }
}

/// Starts `question`, whose answer has two columns of one name, for JSON, and checks that it is refused before any task
/// runs.
///
/// # Panics
/// If the engine breaks the contract.
pub async fn a_format_that_cannot_hold_the_answer_is_refused(engine: &dyn Engine, question: &Question) {
    let question = again(question);
    let mut running = engine.start(question.clone().with_want(Want::Rows(Format::Json)));
    let error = running.answer().await.expect_err("JSON objects cannot have two fields of one name");
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    let report = running.progress().report(question.id);
    assert_eq!(report.tasks_done, 0, "tasks ran before the format was checked");
}

/// Starts `question`, which runs for long, cancels it, and checks that it ends as cancelled; then starts it again, drops
/// it, and checks that the engine still answers `next`.
///
/// # Panics
/// If the engine breaks the contract.
pub async fn a_query_ends_when_it_is_cancelled_or_dropped(engine: &dyn Engine, question: &Question, next: &Question) {
    let mut running = engine.start(again(question));
    tokio::time::sleep(Duration::from_millis(300)).await;
    running.cancel();
    let ended = tokio::time::timeout(CANCELLED_WITHIN, running.answer()).await;
    let error: QueryError = ended.expect("a cancelled query ends").expect_err("a cancelled query has no answer");
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");

    drop(engine.start(again(question)));
    let mut after = engine.start(again(next));
    after.answer().await.expect("a query after one that was dropped");
}
