//! The program of the HComb container: `hcomb` serves a comb, `hcomb health` runs a health check.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

use std::process::ExitCode;

use buzz_worker::comb::{CombSettings, health, run};
use buzz_worker::environment::environment;
use buzz_worker::log;
use buzz_worker::process::run_main;

const USAGE: &str = "\
hcomb: receives deliveries and runs reduce plans, until idle for BUZZ_COMB_IDLE_SECONDS

usage: hcomb          serves a comb
       hcomb health   exits with code 0 if the comb on this machine is healthy

variables: BUZZ_COMB_PORT (3333), BUZZ_COMB_LISTEN ([::]), BUZZ_COMB_IDLE_SECONDS (300),
           BUZZ_COMB_MEMORY_MB (memory of the container), BUZZ_LOG (info),
           BUZZ_COMB_CERTIFICATE (an object for the certificate of TLS; without it, no TLS)";

fn main() -> ExitCode {
    run_main(carry_out)
}

async fn carry_out() -> ExitCode {
    log::start("buzz-hcomb");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let settings = match CombSettings::read(environment) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => {
            let ran = run(&settings).await;
            buzz_telemetry::finish();
            ran
        }
        ["health"] => health(&settings).await,
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
