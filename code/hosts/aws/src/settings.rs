//! Settings of Fuse, read once from the environment at the start.

use std::str::FromStr;
use std::time::Duration;

use buzz_protocol::{Options, Result, Usd};
use buzz_storage::Location;
use buzz_worker::environment::Variables;

/// The network of a stack's combs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CombNetwork {
    /// Each comb calls AWS through a public IPv4 address and is reached at its private one.
    PublicIpv4,
    /// Each comb has a private IPv4 address only, from which its network leads to AWS.
    PrivateIpv4,
    /// IPv6 only.
    Ipv6Only,
}

impl FromStr for CombNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "public_ipv4" => Ok(Self::PublicIpv4),
            "private_ipv4" => Ok(Self::PrivateIpv4),
            "ipv6_only" => Ok(Self::Ipv6Only),
            _ => Err("public_ipv4, private_ipv4 or ipv6_only".to_string()),
        }
    }
}

/// Settings of Fuse.
#[derive(Debug, Clone)]
pub struct FuseSettings {
    /// Name of the stack.
    pub stage: String,
    /// Location of results, progress reports and intermediate objects.
    pub results: Location,
    /// The function that runs tasks.
    pub hbee: HBeeSettings,
    /// Settings of combs; `None` for a stack without combs.
    pub combs: Option<CombSettings>,
    /// Name of the Fuse function, which invokes itself, with its alias if it has one: `name:live`.
    pub function: String,
    /// Memory of the Fuse function, in MB.
    pub memory_mb: u64,
    /// Region of the stack, on which its prices depend; empty if the environment does not name it.
    pub region: String,
    /// Limits of queries that set none.
    pub limits: QueryLimits,
}

/// Limits of queries that set none. A query can set others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueryLimits {
    /// The option `max_scan_bytes`; 0 sets no limit.
    pub max_scan_bytes: u64,
    /// The option `max_cost_usd`.
    pub max_cost_usd: Option<Usd>,
}

impl QueryLimits {
    /// Reads the limits with `get`. Records a problem for each that the option does not accept.
    fn read(variables: &mut Variables<'_>, get: &impl Fn(&str) -> Option<String>) -> Self {
        let mut options = Options::default();
        for (name, key) in [("BUZZ_MAX_SCAN_BYTES", "max_scan_bytes"), ("BUZZ_MAX_COST_USD", "max_cost_usd")] {
            let value = get(name).filter(|value| !value.trim().is_empty());
            if let Some(Err(error)) = value.map(|value| options.set(&format!("{key}={value}"))) {
                variables.problem(format!("{name}: {error}"));
            }
        }
        Self { max_scan_bytes: options.max_scan_bytes, max_cost_usd: options.max_cost_usd }
    }

    /// Sets the limits in `options` that it does not set itself.
    pub fn apply(&self, options: &mut Options) {
        if options.max_scan_bytes == 0 {
            options.max_scan_bytes = self.max_scan_bytes;
        }
        options.max_cost_usd = options.max_cost_usd.or(self.max_cost_usd);
    }
}

/// Settings of the HBee function.
#[derive(Debug, Clone)]
pub struct HBeeSettings {
    /// Name or ARN of the function, with its version: `name:7`. A deployment then leaves running queries alone.
    pub function: String,
    /// Timeout of an invocation.
    pub timeout: Duration,
    /// Memory in MB.
    pub memory_mb: u64,
    /// Maximum number of concurrent invocations.
    pub concurrency: usize,
}

/// Settings to start combs and to connect to them.
#[derive(Debug, Clone)]
pub struct CombSettings {
    /// Name or ARN of the cluster.
    pub cluster: String,
    /// Task definition: `family`, `family:revision` or an ARN.
    pub task_definition: String,
    /// Subnets of the tasks.
    pub subnets: Vec<String>,
    /// Security groups of the tasks.
    pub security_groups: Vec<String>,
    /// Network of the tasks.
    pub network: CombNetwork,
    /// TCP port of a comb.
    pub port: u16,
    /// True if combs are reached with TLS.
    pub tls: bool,
    /// Maximum time to wait for combs that start.
    pub start_max: Duration,
    /// vCPUs of one comb.
    pub vcpus: f64,
    /// Memory of one comb, in MB.
    pub memory_mb: u64,
    /// Disk of one comb, in GiB.
    pub disk_gib: u64,
    /// Time without a query after which a comb stops itself. Only its cost depends on it here.
    pub idle: Duration,
}

/// Share of a comb's disk that the inbox of one query may use. The rest is for the image and for operators that spill.
const INBOX_PERCENT_OF_DISK: u64 = 60;

impl CombSettings {
    /// Bounds the disk of inboxes in `options` by that of a comb: a full disk would end the queries of others as well.
    pub fn bound(&self, options: &mut Options) {
        let bytes = (self.disk_gib << 30) * INBOX_PERCENT_OF_DISK / 100;
        options.inbox_disk_bytes = options.inbox_disk_bytes.min(bytes);
    }
}

impl FuseSettings {
    /// Reads the settings with `get`, which returns the value of a variable.
    ///
    /// # Errors
    /// `Invalid`, naming every variable that is missing or wrong.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut variables = Variables::new(&get);
        let hbee = HBeeSettings {
            function: variables.required("BUZZ_HBEE_FUNCTION"),
            timeout: Duration::from_secs(variables.optional("BUZZ_HBEE_TIMEOUT_SECONDS", 300)),
            memory_mb: variables.optional("BUZZ_HBEE_MEMORY_MB", 2048),
            concurrency: variables.optional("BUZZ_HBEE_CONCURRENCY", 900),
        };
        let combs = get("BUZZ_COMB_CLUSTER").filter(|cluster| !cluster.is_empty()).map(|cluster| CombSettings {
            cluster,
            task_definition: variables.required("BUZZ_COMB_TASK_DEFINITION"),
            subnets: variables.list("BUZZ_COMB_SUBNETS"),
            security_groups: variables.list("BUZZ_COMB_SECURITY_GROUPS"),
            network: variables.optional("BUZZ_COMB_NETWORK", CombNetwork::PublicIpv4),
            port: variables.optional("BUZZ_COMB_PORT", 3333),
            tls: variables.optional("BUZZ_COMB_TLS", false),
            start_max: Duration::from_secs(variables.optional("BUZZ_COMB_START_SECONDS", 180)),
            vcpus: variables.optional("BUZZ_COMB_VCPUS", 2.0),
            memory_mb: variables.optional("BUZZ_COMB_MEMORY_MB", 4096),
            disk_gib: variables.optional("BUZZ_COMB_DISK_GB", 20_u64).min(1 << 20),
            idle: Duration::from_secs(variables.optional("BUZZ_COMB_IDLE_SECONDS", 300)),
        });
        let limits = QueryLimits::read(&mut variables, &get);
        let settings = Self {
            stage: variables.required("BUZZ_STAGE"),
            results: variables.location("BUZZ_RESULTS"),
            hbee,
            combs,
            function: match get("BUZZ_FUSE_FUNCTION").filter(|function| !function.is_empty()) {
                Some(function) => function,
                None => variables.required("AWS_LAMBDA_FUNCTION_NAME"),
            },
            memory_mb: variables.required_number("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
            region: get("AWS_REGION").unwrap_or_default(),
            limits,
        };
        variables.checked(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fuse(sets: &[(&str, &str)]) -> Result<FuseSettings> {
        let usual = [
            ("BUZZ_STAGE", "dev"),
            ("BUZZ_RESULTS", "s3://bucket/results/"),
            ("BUZZ_HBEE_FUNCTION", "buzz-rust-hbee-dev"),
            ("AWS_LAMBDA_FUNCTION_NAME", "buzz-rust-fuse-dev"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "3008"),
        ];
        FuseSettings::read(|name| {
            let found = sets.iter().chain(&usual).find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn stack_without_combs_requires_no_comb_settings() {
        let settings = fuse(&[]).unwrap();
        assert!(settings.combs.is_none());
        assert_eq!(settings.results.to_string(), "s3://bucket/results");
        assert_eq!((settings.hbee.concurrency, settings.memory_mb), (900, 3008));
    }

    #[test]
    fn inboxes_are_bounded_by_the_disk_of_a_comb() {
        let combs = [
            ("BUZZ_COMB_CLUSTER", "c"),
            ("BUZZ_COMB_TASK_DEFINITION", "d:1"),
            ("BUZZ_COMB_SUBNETS", "a"),
            ("BUZZ_COMB_SECURITY_GROUPS", "b"),
        ];
        let bounded = |sets: &[(&str, &str)], bytes: u64| {
            let mut options = Options { inbox_disk_bytes: bytes, ..Options::default() };
            fuse(&[&combs, sets].concat()).unwrap().combs.unwrap().bound(&mut options);
            options.inbox_disk_bytes >> 20
        };
        // Fargate gives 20 GiB to a comb that requests no other disk.
        assert_eq!(bounded(&[], 64 << 30), 12 << 10);
        assert_eq!(bounded(&[("BUZZ_COMB_DISK_GB", "100")], 64 << 30), 60 << 10);
        assert_eq!(bounded(&[("BUZZ_COMB_DISK_GB", "100")], 7 << 20), 7);
    }

    #[test]
    fn fuse_invokes_the_alias_that_its_stack_names() {
        assert_eq!(fuse(&[]).unwrap().function, "buzz-rust-fuse-dev");
        let alias = ("BUZZ_FUSE_FUNCTION", "buzz-rust-fuse-dev:live");
        assert_eq!(fuse(&[alias]).unwrap().function, "buzz-rust-fuse-dev:live");
    }

    #[test]
    fn limits_apply_to_queries_that_set_none() {
        let limits = fuse(&[("BUZZ_MAX_SCAN_BYTES", "10GB"), ("BUZZ_MAX_COST_USD", "0.5")]).unwrap().limits;
        let mut options = Options::default();
        limits.apply(&mut options);
        assert_eq!((options.max_scan_bytes, options.max_cost_usd), (10_000_000_000, Some(Usd::from(0.5))));
        let mut own = Options { max_scan_bytes: 7, max_cost_usd: Some(Usd::from(2.0)), ..Options::default() };
        limits.apply(&mut own);
        assert_eq!((own.max_scan_bytes, own.max_cost_usd), (7, Some(Usd::from(2.0))));
        assert_eq!(fuse(&[("BUZZ_MAX_COST_USD", "")]).unwrap().limits, QueryLimits::default());
        let error = fuse(&[("BUZZ_MAX_COST_USD", "much")]).unwrap_err().to_string();
        assert!(error.contains("BUZZ_MAX_COST_USD: option `max_cost_usd` cannot be `much`"), "{error}");
    }

    #[test]
    fn all_problems_are_reported_in_one_error() {
        let sets =
            [("BUZZ_STAGE", ""), ("BUZZ_COMB_CLUSTER", "c"), ("BUZZ_COMB_SUBNETS", "a, b"), ("BUZZ_COMB_PORT", "x")];
        assert_eq!(
            fuse(&sets).unwrap_err().to_string(),
            "environment variables are missing or invalid: BUZZ_COMB_TASK_DEFINITION is not set; \
             BUZZ_COMB_SECURITY_GROUPS is not set; BUZZ_COMB_PORT has the invalid value `x`; BUZZ_STAGE is not set"
        );
    }
}
