//! What each program is told by its environment, read once at its start.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use buzz_protocol::Result;
use buzz_storage::Location;
use buzz_worker::environment::Variables;

/// How the combs of a stack reach AWS, and where they are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CombNetwork {
    /// Each has a public IPv4 address for what it asks of AWS; it is reached by its private one.
    PublicIpv4,
    /// IPv6 only.
    Ipv6Only,
}

impl FromStr for CombNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "public_ipv4" => Ok(Self::PublicIpv4),
            "ipv6_only" => Ok(Self::Ipv6Only),
            _ => Err("public_ipv4 or ipv6_only".to_string()),
        }
    }
}

/// What Fuse is told.
#[derive(Debug, Clone)]
pub struct FuseSettings {
    /// The stack's stage.
    pub stage: String,
    /// Where results, progress and intermediate objects go.
    pub results: Location,
    /// The function that runs tasks.
    pub hbee: HBeeSettings,
    /// How combs are started; None for a stack without them.
    pub combs: Option<CombSettings>,
    /// Fuse's own name, to invoke itself.
    pub function: String,
    /// Fuse's own size.
    pub memory_mb: u64,
}

/// The HBee function, as Fuse sees it.
#[derive(Debug, Clone)]
pub struct HBeeSettings {
    /// Name or ARN.
    pub function: String,
    /// Its time limit.
    pub timeout: Duration,
    /// Its size.
    pub memory_mb: u64,
    /// Invocations at once.
    pub concurrency: usize,
}

/// How combs are started and reached.
#[derive(Debug, Clone)]
pub struct CombSettings {
    /// Name or ARN of the cluster.
    pub cluster: String,
    /// `family`, `family:revision` or an ARN.
    pub task_definition: String,
    /// Subnets of the tasks.
    pub subnets: Vec<String>,
    /// Security groups of the tasks.
    pub security_groups: Vec<String>,
    /// How they reach AWS and are reached.
    pub network: CombNetwork,
    /// Where they answer.
    pub port: u16,
    /// The longest time from the start of a task to its first answer.
    pub start_max: Duration,
    /// Processors of one comb.
    pub vcpus: f64,
    /// Memory of one comb.
    pub memory_mb: u64,
}

impl FuseSettings {
    /// The settings in `get`, a look-up of variables.
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
            start_max: Duration::from_secs(variables.optional("BUZZ_COMB_START_SECONDS", 180)),
            vcpus: variables.optional("BUZZ_COMB_VCPUS", 2.0),
            memory_mb: variables.optional("BUZZ_COMB_MEMORY_MB", 4096),
        });
        let results = variables.required("BUZZ_RESULTS");
        let settings = Self {
            stage: variables.required("BUZZ_STAGE"),
            results: Location::parse(&results, Path::new("/")).unwrap_or_else(|error| {
                variables.problem(format!("BUZZ_RESULTS: {error}"));
                Location::parse("/", Path::new("/")).expect("the root is a place")
            }),
            hbee,
            combs,
            function: variables.required("AWS_LAMBDA_FUNCTION_NAME"),
            memory_mb: variables.required_number("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
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
    fn a_stack_without_combs_needs_little() {
        let settings = fuse(&[]).unwrap();
        assert!(settings.combs.is_none());
        assert_eq!(settings.results.to_string(), "s3://bucket/results");
        assert_eq!((settings.hbee.concurrency, settings.memory_mb), (900, 3008));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let sets =
            [("BUZZ_STAGE", ""), ("BUZZ_COMB_CLUSTER", "c"), ("BUZZ_COMB_SUBNETS", "a, b"), ("BUZZ_COMB_PORT", "x")];
        assert_eq!(
            fuse(&sets).unwrap_err().to_string(),
            "the environment is not complete: BUZZ_COMB_TASK_DEFINITION is not set; BUZZ_COMB_SECURITY_GROUPS is not \
             set; BUZZ_COMB_PORT cannot be `x`; BUZZ_STAGE is not set"
        );
    }
}
