//! Runs `buzz stream` as a user does: the tutorial's queries, other engines' scripts with their stored answers, kills at
//! random times, and changes of the parallelism.
//!
//! Scripts and answers of other engines are in the shared folder of real tables; without it, their tests are ignored.
//! `BUZZ_STREAM_KILLS=200` chooses the number of kills, `BUZZ_INGEST_KILLS=50` that of servers which take rows.

#![expect(clippy::print_stdout, reason = "a test reports what it skips")]

mod buckets;
mod changes;
mod continued;
mod counts;
mod delta;
mod dialect;
mod engines;
mod files;
mod ingest;
mod jobs;
mod lookup;
mod names;
mod profiles;
mod pushed_tables;
mod served;
mod sinks;
mod state;
mod support;
mod time;
mod timers;
mod tutorial;
mod views;

use buzz_testkit::shared_data;
use libtest_mimic::{Arguments, Trial};

fn main() {
    let arguments = Arguments::from_args();
    let data = shared_data().map(|data| data.join("streams")).filter(|data| data.is_dir());
    if data.is_none() {
        println!("no scripts of other engines: neither BUZZ_TEST_DATA nor ../shared/data has a folder streams");
    }
    let absent = data.is_none();
    let data = data.unwrap_or_default();
    let mut trials = own_trials();
    trials.extend(trials_of_tables());
    trials.extend(trials_of_servers());
    for name in engines::ARROYO {
        let data = data.join("arroyo");
        trials.push(
            Trial::test(format!("arroyo::{name}"), move || engines::arroyo(&data, name)).with_ignored_flag(absent),
        );
    }
    for name in engines::ARROYO_CHANGES {
        let data = data.join("arroyo");
        let test = move || engines::arroyo_changes(&data, name);
        trials.push(Trial::test(format!("arroyo_changes::{name}"), test).with_ignored_flag(absent));
    }
    for name in engines::ARROYO_DEBEZIUM {
        let data = data.join("arroyo");
        let test = move || engines::arroyo_debezium(&data, name);
        trials.push(Trial::test(format!("arroyo_debezium::{name}"), test).with_ignored_flag(absent));
    }
    for (name, message) in engines::ARROYO_REFUSED {
        let data = data.join("arroyo");
        let test = move || engines::arroyo_refused(&data, name, message);
        trials.push(Trial::test(format!("arroyo_refused::{name}"), test).with_ignored_flag(absent));
    }
    for name in engines::RISINGWAVE {
        let data = data.join("risingwave");
        trials.push(
            Trial::test(format!("risingwave::{name}"), move || engines::risingwave(&data, name))
                .with_ignored_flag(absent),
        );
    }
    let data = data.join("risingwave");
    trials.push(Trial::test("risingwave::time_window", move || engines::time_window(&data)).with_ignored_flag(absent));
    libtest_mimic::run(&arguments, trials).exit();
}

/// Returns the tests of tables that are looked up, and of views that are read as tables.
fn trials_of_tables() -> Vec<Trial> {
    vec![
        Trial::test("lookup::each_row_finds_its_names_once_over_kills", lookup::over_kills),
        Trial::test("lookup::tables_of_all_kinds_are_read_at_the_start", lookup::kinds_of_tables),
        Trial::test("lookup::tables_that_cannot_be_looked_up_are_errors", lookup::refused),
        Trial::test("views::rows_equal_batch_over_kills", views::equal_batch),
        Trial::test("views::going_back_and_other_scripts_have_their_rows", views::versions),
    ]
}

/// Returns the tests that need no data of others.
fn own_trials() -> Vec<Trial> {
    vec![
        Trial::test("tutorial::first_query_prints_bids", tutorial::tutorial_filter),
        Trial::test("tutorial::hop_prints_a_row_every_two_seconds", tutorial::tutorial_hop),
        Trial::test("tutorial::top_5_auctions_have_ranks", tutorial::tutorial_top),
        Trial::test("state::kill_at_random_times_changes_no_row", state::kills),
        Trial::test("state::two_processes_at_once_change_no_row", state::two_processes),
        Trial::test("state::process_that_wakes_up_late_changes_no_row", state::late_process),
        Trial::test("state::from_epoch_goes_back", state::from_epoch),
        Trial::test("state::other_script_is_another_version", state::other_script),
        Trial::test("state::state_of_closed_windows_is_dropped", state::bounded_state),
        Trial::test("continued::script_goes_on_with_offsets_and_state", continued::offsets_and_state),
        Trial::test("time::timers_fire_once_over_restarts", timers::fire_once),
        Trial::test("state::comment_is_no_other_version", state::same_statements),
        Trial::test("state::rows_before_another_script_are_published", state::rows_before_another_script),
        Trial::test("state::rows_that_fail_stop_the_run_or_are_skipped", state::failing_rows),
        Trial::test("state::bucket_with_kills_and_two_processes", buckets::kills_and_races),
        Trial::test("counts::words_equal_batch", counts::words),
        Trial::test("counts::counter_has_each_value_once_over_restarts", counts::counter),
        Trial::test("counts::state_rows_follow_keys_not_events", counts::state_rows),
        Trial::test("time::late_rows_are_counted", time::late_rows),
        Trial::test("time::later_run_has_windows_after_those_that_the_end_closed", time::windows_after_an_end),
        Trial::test(
            "time::later_run_closes_the_windows_of_each_statement",
            time::windows_after_an_end_are_those_of_each_statement,
        ),
        Trial::test("time::source_waits_for_slower_ones", time::max_drift),
        Trial::test("time::windows_are_printed_in_order", time::order_of_windows),
        Trial::test("time::windows_beyond_the_ends_of_time_are_bad_rows_or_errors", time::ends_of_time),
        Trial::test("time::option_names_event_time_as_it_is_written", time::event_time_option),
        Trial::test("time::idle_source_closes_its_windows", time::idle_source),
        Trial::test("time::late_and_bad_rows_are_tables", time::side_tables),
        Trial::test("time::row_without_event_time_is_bad_for_all_statements", time::rows_without_time),
        Trial::test("time::emit_on_window_close_waits_for_the_watermark", time::emit_on_window_close),
        Trial::test("sql::literals_keep_quotes_and_blanks", tutorial::literals),
        Trial::test("json::steps_run_over_a_stream", tutorial::json_form),
        Trial::test("state::hot_key_is_one_row_per_slice", state::hot_key),
        Trial::test("files::folder_is_followed", files::followed_folder),
        Trial::test("files::bad_rows_fail_or_are_counted", files::bad_rows),
        Trial::test("files::columns_that_do_not_fit_are_errors", files::file_schema_must_fit),
        Trial::test("files::sink_that_failed_gets_each_row_once", files::blocked_sink),
        Trial::test("files::csv_without_header_is_an_error_or_an_option", files::csv_header),
        Trial::test("files::parquet_sink_is_partitioned_and_read_back", files::parquet_round_trip),
        Trial::test("files::paths_have_partition_columns", files::partition_columns),
        Trial::test("files::missing_folder_is_named", files::missing_folder),
        Trial::test("files::json_without_known_keys_is_an_error_or_bad", files::foreign_json),
        Trial::test("names::column_with_other_capitals_is_an_error", names::capitals),
        Trial::test("names::pattern_in_the_path_of_a_source_is_an_error", names::pattern),
        Trial::test("names::null_in_a_column_that_is_not_null_is_bad", names::not_null),
        Trial::test("files::csv_sinks_have_a_header", files::csv_sinks),
        Trial::test("files::csv_rows_may_have_line_breaks", files::csv_line_breaks),
        Trial::test("files::each_file_is_read_once_over_runs", files::files_over_runs),
        Trial::test("files::rolled_sink_has_files_of_several_epochs", files::rolled_sink),
        Trial::test("state::file_of_others_stays_as_it_is", state::file_of_others),
        Trial::test("sinks::empty_texts_of_partitions_are_not_recorded", sinks::empty_partitions),
        Trial::test("sinks::rows_have_the_columns_of_the_sink", sinks::columns),
        Trial::test("sinks::what_cannot_be_written_is_refused_by_check", sinks::refused),
        Trial::test("sinks::times_keep_their_zone", sinks::zones),
        Trial::test("changes::changes_that_were_written_are_read_back", changes::read_back),
        Trial::test("changes::counts_change_over_kills_and_runs", changes::over_kills),
        Trial::test("changes::rows_find_partners_of_later_runs", changes::partners_of_later_runs),
        Trial::test("changes::need_a_sink_that_takes_them", changes::sinks),
        Trial::test("delta::appended_rows_are_read_once", delta::appended_rows),
        Trial::test("delta::sink_gets_each_epoch_once", delta::sink),
        Trial::test("dialect::statements_equal_batch", dialect::equal_batch),
        Trial::test("dialect::overflow_is_an_error_as_in_batch", dialect::overflow_is_an_error),
        Trial::test("check::names_stages_and_state", tutorial::check_names_stages),
        Trial::test("check::unknown_option_is_refused", tutorial::unknown_option),
        Trial::test("check::unknown_table_is_named", tutorial::unknown_table),
    ]
}

/// Returns the tests of servers that take rows and run pipelines.
fn trials_of_servers() -> Vec<Trial> {
    vec![
        Trial::test("tables::declared_stream_is_a_table", pushed_tables::declared),
        Trial::test("tables::bad_rows_are_left_out_as_declared", pushed_tables::bad_rows_and_no_declaration),
        Trial::test("continued::pipelines_go_on_with_another_script", continued::pipelines),
        Trial::test("ingest::kills_of_servers_and_pipelines_change_no_row", ingest::kills),
        Trial::test("ingest::runs_go_on_after_rows_of_two_servers", ingest::runs_go_on),
        Trial::test("ingest::example_joins_two_streams", ingest::example_joins),
        Trial::test("ingest::mistakes_are_named", ingest::mistakes),
        Trial::test("jobs::stops_starts_and_rescales_change_no_row", jobs::lifecycle),
        Trial::test("jobs::failure_of_a_job_is_its_own", jobs::failure),
        Trial::test("jobs::killed_server_is_replaced", jobs::take_over),
        Trial::test("jobs::stopped_server_hands_over", jobs::hand_over),
        Trial::test("jobs::scripts_are_replaced_and_deleted", jobs::replaced),
        Trial::test("jobs::rows_are_followed", jobs::followed),
        Trial::test("jobs::wrong_requests_are_refused", jobs::refused),
        Trial::test("jobs::profiles_are_settings_of_tables_and_show_no_secrets", profiles::kept_and_read),
        Trial::test("jobs::sources_are_kept", jobs::sources),
        Trial::test("jobs::state_in_a_bucket", buckets::pipelines),
        Trial::test("jobs::store_that_is_away_loses_no_row", buckets::store_away),
    ]
}
