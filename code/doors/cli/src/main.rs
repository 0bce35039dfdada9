//! The `buzz` command.

#![expect(clippy::print_stderr, reason = "a program prints")]

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use buzz_cli::args::{Arguments, prepared};
use buzz_cli::ask;
use buzz_protocol::THREAD_STACK_BYTES;
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Maximum time to wait for the end of cancelled work.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let on_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let arguments = Arguments::parse_from(prepared(std::env::args_os(), on_terminal));
    // A failure is one message on standard error. The log is off unless `BUZZ_LOG` enables it.
    let filter = EnvFilter::try_from_env("BUZZ_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    _ = buzz_telemetry::start(log, filter, "buzz");
    // The code that catches a panic converts it to an error and reports it.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panic")));

    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.thread_stack_size(THREAD_STACK_BYTES);
    if let Some(threads) = arguments.threads {
        runtime.worker_threads(threads.get());
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the async runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(ask::carry_out(arguments));
    // Waits until operators that spilled have removed their folders, but not for cancelled work that still computes.
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    buzz_telemetry::finish();
    code
}
