//! The `buzz` command.

use std::process::ExitCode;

use buzz_cli::args::Arguments;
use buzz_cli::ask;
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What fails is said in one message; the log is for those who ask for it.
    let filter = EnvFilter::try_from_env("BUZZ_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    // A panic becomes an error where it is caught, and is told there.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "panic")));

    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = arguments.threads {
        runtime.worker_threads(threads.get());
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(ask::carry_out(arguments));
    // Work that was cancelled may still be in the middle of a computation; nobody waits for it.
    runtime.shutdown_background();
    code
}
