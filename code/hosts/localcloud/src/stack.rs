//! The functions, tasks and buckets of a deployed Buzz, with the names and sizes of the deployment on AWS.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Setup;
use crate::ecs::{AddressKind, TaskDefinition};
use crate::lambda::{Function, LIVE};

/// Name of the stage, which is also the name for `buzz --stack`.
pub const STAGE: &str = "local";
/// Name of the Fuse function, which plans and answers queries.
pub const FUSE: &str = "buzz-rust-fuse-local";
/// Name of the HBee function, which runs tasks.
pub const HBEE: &str = "buzz-rust-hbee-local";
/// Name of the ECS cluster of the combs.
pub const CLUSTER: &str = "buzz-rust-cluster-local";
/// Family of the combs' task definition.
pub const COMB_FAMILY: &str = "buzz-rust-hcomb-local";
/// Name of the bucket of the stack.
pub const BUCKET: &str = "buzz-local";
/// Name of the bucket in the example query's catalog. In the local cloud it holds the sample.
pub const EXAMPLE_BUCKET: &str = "cloudfuse-taxi-data";
/// Location where Fuse writes results and progress.
pub const RESULTS: &str = "s3://buzz-local/results/";

/// The sizes and settings of a stack.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Folder of the programs `fuse_lambda`, `hbee_lambda` and `hcomb`.
    pub programs: PathBuf,
    /// Folder of the local cloud.
    pub folder: PathBuf,
    /// Address on which the endpoint listens.
    pub address: IpAddr,
    /// Port of the endpoint; 0 selects a free port.
    pub port: u16,
    /// Name of this machine in the endpoint; by default its address.
    pub host: Option<String>,
    /// Memory of Fuse in MB.
    pub fuse_memory_mb: u64,
    /// Timeout of the Fuse function.
    pub fuse_timeout: Duration,
    /// Memory of an HBee in MB.
    pub hbee_memory_mb: u64,
    /// Timeout of the HBee function.
    pub hbee_timeout: Duration,
    /// Maximum number of concurrent invocations of both functions together.
    pub concurrency: usize,
    /// Time from `RunTask` to the start of a comb's program; 15 to 25 seconds on Fargate.
    pub comb_start_delay: Duration,
    /// Time without a query until a comb stops.
    pub comb_idle: Duration,
    /// Memory of a comb in MB.
    pub comb_memory_mb: u64,
    /// True if Fuse can start combs.
    pub combs: bool,
    /// Kind of address at which Fuse and HBees connect to combs.
    pub comb_address: AddressKind,
    /// Log filter of the programs, such as `info` or `buzz_fuse=debug`.
    pub log: String,
    /// Locations that queries may read; `None` for every bucket.
    pub data_locations: Option<Vec<String>>,
    /// Locations to which results may be written; `None` for every bucket.
    pub output_locations: Option<Vec<String>>,
    /// Additional environment variables of all programs.
    pub environment: BTreeMap<String, String>,
    /// Additional environment variables of Fuse.
    pub fuse_environment: BTreeMap<String, String>,
}

impl Stack {
    /// Returns a stack of default sizes with programs from `programs` and all data in `folder`.
    pub fn new(programs: &Path, folder: &Path) -> Stack {
        Stack {
            programs: programs.to_path_buf(),
            folder: folder.to_path_buf(),
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            host: None,
            fuse_memory_mb: 3008,
            fuse_timeout: Duration::from_secs(900),
            hbee_memory_mb: 2048,
            hbee_timeout: Duration::from_secs(300),
            concurrency: 1000,
            comb_start_delay: Duration::from_secs(2),
            comb_idle: Duration::from_secs(300),
            comb_memory_mb: 4096,
            combs: true,
            comb_address: AddressKind::Ipv4,
            log: "info".to_string(),
            data_locations: None,
            output_locations: None,
            environment: BTreeMap::new(),
            fuse_environment: BTreeMap::new(),
        }
    }

    /// Returns the configuration of a local cloud with this stack.
    pub fn setup(&self) -> Setup {
        let mut fuse = self.fuse_variables();
        let mut hbee = self.variables(&[("BUZZ_RESULTS", RESULTS.to_string())]);
        for (name, locations) in
            [("BUZZ_DATA_LOCATIONS", &self.data_locations), ("BUZZ_OUTPUT_LOCATIONS", &self.output_locations)]
        {
            let Some(locations) = locations else { continue };
            for function in [&mut fuse, &mut hbee] {
                function.insert(name.to_string(), serde_json::json!(locations).to_string());
            }
        }
        let comb = self.variables(&[
            ("BUZZ_RESULTS", RESULTS.to_string()),
            ("BUZZ_COMB_PORT", COMB_PORT.to_string()),
            ("BUZZ_COMB_MEMORY_MB", self.comb_memory_mb.to_string()),
            ("BUZZ_COMB_IDLE_SECONDS", self.comb_idle.as_secs().to_string()),
        ]);
        let function = |name: &str, program: &str, memory_mb, timeout, environment| Function {
            name: name.to_string(),
            bootstrap: self.programs.join(program),
            memory_mb,
            timeout,
            environment,
        };
        Setup {
            listen: (self.address, self.port).into(),
            host: self.host.clone(),
            folder: self.folder.clone(),
            buckets: vec![BUCKET.to_string(), EXAMPLE_BUCKET.to_string()],
            functions: vec![
                function(FUSE, "fuse_lambda", self.fuse_memory_mb, self.fuse_timeout, fuse),
                function(HBEE, "hbee_lambda", self.hbee_memory_mb, self.hbee_timeout, hbee),
            ],
            concurrency: self.concurrency,
            task_definition: TaskDefinition {
                cluster: CLUSTER.to_string(),
                family: COMB_FAMILY.to_string(),
                container: "hcomb".to_string(),
                program: self.programs.join("hcomb"),
                environment: comb,
                listen_variable: "BUZZ_COMB_LISTEN".to_string(),
                port: COMB_PORT,
                address: self.comb_address,
                start_delay: self.comb_start_delay,
                stop_timeout: Duration::from_secs(30),
            },
        }
    }

    /// Returns the environment variables of Fuse, without those that limit its locations.
    fn fuse_variables(&self) -> BTreeMap<String, String> {
        let network = match self.comb_address {
            AddressKind::Ipv4 => "public_ipv4",
            AddressKind::Ipv6 => "ipv6_only",
        };
        let mut fuse = self.variables(&[
            ("BUZZ_RESULTS", RESULTS.to_string()),
            ("BUZZ_FUSE_FUNCTION", format!("{FUSE}:{LIVE}")),
            ("BUZZ_HBEE_FUNCTION", format!("{HBEE}:1")),
            ("BUZZ_HBEE_TIMEOUT_SECONDS", self.hbee_timeout.as_secs().to_string()),
            ("BUZZ_HBEE_MEMORY_MB", self.hbee_memory_mb.to_string()),
        ]);
        if self.combs {
            fuse.extend(self.variables(&[
                ("BUZZ_COMB_CLUSTER", CLUSTER.to_string()),
                ("BUZZ_COMB_TASK_DEFINITION", format!("{COMB_FAMILY}:1")),
                ("BUZZ_COMB_SUBNETS", "subnet-local".to_string()),
                ("BUZZ_COMB_SECURITY_GROUPS", "sg-local".to_string()),
                ("BUZZ_COMB_NETWORK", network.to_string()),
                ("BUZZ_COMB_PORT", COMB_PORT.to_string()),
                ("BUZZ_COMB_MEMORY_MB", self.comb_memory_mb.to_string()),
            ]));
        }
        fuse.extend(self.fuse_environment.clone());
        fuse
    }

    fn variables(&self, own: &[(&str, String)]) -> BTreeMap<String, String> {
        let shared = [("BUZZ_STAGE", STAGE.to_string()), ("BUZZ_LOG", self.log.clone())];
        let named = shared.iter().chain(own).map(|(name, value)| (name.to_string(), value.clone()));
        named.chain(self.environment.clone()).collect()
    }
}

/// Port on which every comb listens.
const COMB_PORT: u16 = 3333;
