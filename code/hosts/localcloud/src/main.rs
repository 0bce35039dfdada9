//! The command `localcloud`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use buzz_localcloud::ecs::AddressKind;
use buzz_localcloud::s3::{Bandwidth, Shape};
use buzz_localcloud::stack::{BUCKET, FUSE, STAGE, Stack};
use buzz_localcloud::upload::upload;
use buzz_localcloud::{Freeze, LocalCloud, client_environment};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

type Error = Box<dyn std::error::Error + Send + Sync>;

const EXAMPLES: &str = "\
Examples:
  localcloud serve --port 4566
      Starts S3, Lambda and ECS on one endpoint, with Buzz deployed as the stack `local`.
  localcloud run -- aws s3 ls
      Runs a command with AWS variables that point to the local cloud; starts a local cloud if none is running.
  localcloud run --upload data/trips=s3://buzz-local/trips -- \\
      buzz sql 'SELECT COUNT(*) FROM trips' --table trips=s3://buzz-local/trips --stack local";

/// Emulate AWS for Buzz on one machine: an S3 server, and Lambda functions and ECS tasks as real processes.
#[derive(Debug, Parser)]
#[command(name = "localcloud", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start all services, print their endpoint and AWS variables, and stop on Ctrl-C.
    Serve {
        #[command(flatten)]
        cloud: CloudArguments,
        /// Address on which the endpoint listens, such as 0.0.0.0 in a container. Only S3 requests are authenticated.
        #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
        listen: IpAddr,
        /// Port of the endpoint; 0 selects a free port.
        #[arg(long, default_value_t = 4566, value_name = "PORT")]
        port: u16,
    },
    /// Run a command with the local cloud of the folder. Without one, start a local cloud that ends with the command.
    Run {
        #[command(flatten)]
        cloud: CloudArguments,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
}

#[derive(Debug, Args)]
struct CloudArguments {
    /// Folder for buckets and logs.
    #[arg(long, default_value = "data/local-cloud", value_name = "FOLDER")]
    folder: PathBuf,
    /// Folder of the programs fuse_lambda, hbee_lambda and hcomb; by default the folder of this program.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// Copy the files of a folder to a bucket first; files that exist there with the same size are skipped.
    #[arg(long = "upload", value_name = "FOLDER=s3://BUCKET/PREFIX", value_parser = upload_pair)]
    uploads: Vec<(PathBuf, String)>,
    /// Seconds before the first byte of each response of a bucket; about 0.03 on S3.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    s3_first_byte: f64,
    /// Maximum MB of one response of a bucket in a second, about 50 on S3; 0 sets no limit.
    #[arg(long, default_value_t = 0, value_name = "MB")]
    s3_rate: u64,
    /// Maximum MB between buckets and one function in a second, after --function-burst; about 79 on Lambda; 0 sets no limit.
    #[arg(long, default_value_t = 0, value_name = "MB")]
    function_rate: u64,
    /// MB between buckets and one function that pass at once.
    #[arg(long, default_value_t = 315, value_name = "MB")]
    function_burst: u64,
    /// Maximum MB between buckets and all functions together in a second, as in one network; 0 sets no limit.
    #[arg(long, default_value_t = 0, value_name = "MB")]
    functions_rate: u64,
    /// Fate of the connections of a function to the services while it is frozen.
    #[arg(long, value_enum, default_value_t = Freeze::Keep, value_name = "FATE")]
    freeze_connections: Freeze,
    /// Name of this machine in the endpoint, such as localhost, in place of its address.
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Percentage of the requests to buckets that are refused with 503 SlowDown.
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    s3_refuse: u8,
    /// Percentage of the invocations that are refused with 429.
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    lambda_refuse: u8,
    /// Seconds from RunTask until ListTasks and DescribeTasks know the task; some seconds on ECS.
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    ecs_lag: f64,
    /// Seconds from RunTask to the start of a comb's program; 15 to 25 on Fargate.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    comb_start_delay: f64,
    /// Seconds without a query until a comb stops.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    comb_idle: u64,
    /// Memory of an HBee in MB.
    #[arg(long, default_value_t = 2048, value_name = "MB")]
    hbee_memory: u64,
    /// Maximum number of concurrent invocations; further ones are rejected with 429.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    concurrency: usize,
    /// Set an additional environment variable of Fuse.
    #[arg(long = "fuse-env", value_name = "NAME=VALUE", value_parser = variable)]
    fuse_environment: Vec<(String, String)>,
    /// Report only IPv6 addresses for combs.
    #[arg(long)]
    ipv6: bool,
    /// Deploy a stack without combs, as COMB_NETWORK=none does.
    #[arg(long, conflicts_with = "ipv6")]
    without_combs: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BUZZ_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let done = match Arguments::parse().command {
        Command::Serve { cloud, listen, port } => serve(&cloud, (listen, port)).await,
        Command::Run { cloud, command } => run(&cloud, &command).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

async fn serve(arguments: &CloudArguments, place: (IpAddr, u16)) -> Result<ExitCode, Error> {
    let Some(claim) = Claim::try_on(&arguments.folder)? else {
        let endpoint = endpoint_of(&arguments.folder).await?;
        return Err(format!("folder {} is in use by the local cloud at {endpoint}", arguments.folder.display()).into());
    };
    let cloud = start(arguments, place).await?;
    claim.announce(&cloud.endpoint)?;
    print_usage(&cloud.endpoint, &arguments.folder);
    until_told_to_stop().await?;
    eprintln!("stopping …");
    cloud.stop().await;
    Ok(ExitCode::SUCCESS)
}

async fn run(arguments: &CloudArguments, command: &[String]) -> Result<ExitCode, Error> {
    let claim = Claim::try_on(&arguments.folder)?;
    let (endpoint, cloud) = match &claim {
        Some(claim) => {
            let cloud = start(arguments, (Ipv4Addr::LOCALHOST.into(), 0)).await?;
            claim.announce(&cloud.endpoint)?;
            (cloud.endpoint.clone(), Some(cloud))
        }
        None => {
            let endpoint = endpoint_of(&arguments.folder).await?;
            upload_all(&endpoint, &arguments.uploads).await?;
            (endpoint, None)
        }
    };
    let code = run_command(command, &client_environment(&endpoint)).await;
    if let Some(cloud) = cloud {
        cloud.stop().await;
    }
    code
}

async fn start(arguments: &CloudArguments, (address, port): (IpAddr, u16)) -> Result<LocalCloud, Error> {
    let programs = match &arguments.programs {
        Some(programs) => programs.clone(),
        None => std::env::current_exe()?.parent().unwrap_or(Path::new(".")).to_path_buf(),
    };
    let stack = Stack {
        address,
        port,
        host: arguments.host.clone(),
        hbee_memory_mb: arguments.hbee_memory,
        concurrency: arguments.concurrency,
        comb_start_delay: Duration::try_from_secs_f64(arguments.comb_start_delay)?,
        comb_idle: Duration::from_secs(arguments.comb_idle),
        fuse_environment: arguments.fuse_environment.iter().cloned().collect(),
        combs: !arguments.without_combs,
        comb_address: if arguments.ipv6 { AddressKind::Ipv6 } else { AddressKind::Ipv4 },
        ..Stack::new(&programs, &arguments.folder)
    };
    let cloud = LocalCloud::start(stack.setup()).await?;
    upload_all(&cloud.endpoint, &arguments.uploads).await?;
    let megabytes = |count: u64| count.saturating_mul(1_000_000);
    let bandwidth = |rate, burst| {
        NonZeroU64::new(megabytes(rate)).map(|per_second| Bandwidth { burst: megabytes(burst), per_second })
    };
    cloud.s3.set_shape(Shape {
        first_byte: Duration::try_from_secs_f64(arguments.s3_first_byte)?,
        bytes_per_second: NonZeroU64::new(megabytes(arguments.s3_rate)),
        per_function: bandwidth(arguments.function_rate, arguments.function_burst),
        of_functions: bandwidth(arguments.functions_rate, 0),
        refused_percent: arguments.s3_refuse,
    });
    cloud.lambda.refuse(arguments.lambda_refuse);
    cloud.lambda.set_freeze(arguments.freeze_connections);
    cloud.ecs.set_lag(Duration::try_from_secs_f64(arguments.ecs_lag)?);
    Ok(cloud)
}

async fn upload_all(endpoint: &str, uploads: &[(PathBuf, String)]) -> Result<(), Error> {
    for (folder, to) in uploads {
        let uploaded = upload(endpoint, folder, to).await?;
        if uploaded.sent > 0 {
            eprintln!("uploaded {} files of {} to {to}", uploaded.sent, folder.display());
        }
    }
    Ok(())
}

/// Runs the command in the foreground and returns its exit code. The terminal sends Ctrl-C to the command itself, so
/// this process ignores it and waits.
async fn run_command(command: &[String], environment: &BTreeMap<String, String>) -> Result<ExitCode, Error> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut running = tokio::process::Command::new(&command[0])
        .args(&command[1..])
        .envs(environment)
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE")
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start `{}`: {error}", command[0]))?;
    loop {
        tokio::select! {
            status = running.wait() => {
                let code = status?.code().and_then(|code| u8::try_from(code).ok());
                return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => running.start_kill()?,
        }
    }
}

async fn until_told_to_stop() -> Result<(), Error> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

fn print_usage(endpoint: &str, folder: &Path) {
    println!(
        "The local cloud is at {endpoint} (S3, Lambda, ECS), with Buzz as the stack `{STAGE}`. Ctrl-C stops all.\n"
    );
    for (name, value) in client_environment(endpoint) {
        println!("export {name}={value}");
    }
    println!(
        "
aws s3 ls s3://{BUCKET}/
aws lambda invoke --function-name {FUSE} --cli-read-timeout 0 --payload fileb://code/examples/query-delta-taxi.json answer.json
buzz query code/examples/query-delta-taxi.json --stack {STAGE}
buzz sql 'SELECT COUNT(*) FROM trips' --table trips=s3://{BUCKET}/trips --stack {STAGE}

Logs of functions and combs: {}",
        folder.join("logs").display()
    );
}

/// An exclusive lock on the folder of a local cloud. The kernel releases it when the process ends, even after a crash.
struct Claim {
    _lock: File,
    endpoint: PathBuf,
}

impl Claim {
    /// Locks `folder`. Returns `None` if another process holds the lock.
    fn try_on(folder: &Path) -> Result<Option<Claim>, Error> {
        let unusable = |error| format!("cannot use folder {}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(unusable)?;
        let lock = File::create(folder.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {
                let endpoint = folder.join("endpoint");
                // A killed process may have left the file.
                let _absent = fs::remove_file(&endpoint);
                Ok(Some(Claim { _lock: lock, endpoint }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(unusable(error).into()),
        }
    }

    /// Writes the endpoint to the folder, for other processes to read.
    fn announce(&self, endpoint: &str) -> Result<(), Error> {
        let draft = self.endpoint.with_extension("draft");
        fs::write(&draft, endpoint)?;
        Ok(fs::rename(draft, &self.endpoint)?)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _absent = fs::remove_file(&self.endpoint);
    }
}

/// Returns the endpoint of the local cloud over `folder`. Waits up to 10 seconds for it to start.
async fn endpoint_of(folder: &Path) -> Result<String, Error> {
    for _ in 0..100 {
        if let Ok(endpoint) = fs::read_to_string(folder.join("endpoint")) {
            return Ok(endpoint);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(format!(
        "the local cloud over {} has not written its endpoint within 10 s; stop it and try again",
        folder.display()
    )
    .into())
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form NAME=VALUE"))?;
    Ok((name.to_string(), value.to_string()))
}

fn upload_pair(text: &str) -> Result<(PathBuf, String), String> {
    match text.split_once('=') {
        Some((folder, to)) if !folder.is_empty() && to.starts_with("s3://") => Ok((folder.into(), to.to_string())),
        _ => Err(format!("`{text}` is not of the form FOLDER=s3://BUCKET/PREFIX")),
    }
}
