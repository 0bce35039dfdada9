//! Cost of a query at AWS's list prices.

use buzz_engine::{Between, Cost, Used};
use buzz_host::Pace;
use buzz_protocol::Requests;

use crate::settings::{CombNetwork, CombSettings, FuseSettings};

/// Date of the prices below, from AWS's public price list for us-east-2.
pub const PRICES_OF: &str = "autumn 2026";

/// Prices that depend on the processor that a stack is built for.
#[derive(Debug)]
struct Processor {
    /// US dollars per gigabyte-second of a function, [first tier](https://aws.amazon.com/lambda/pricing/).
    lambda_gb_second: f64,
    /// US dollars per vCPU-hour of a [Fargate](https://aws.amazon.com/fargate/pricing/) task on Linux.
    fargate_vcpu_hour: f64,
    /// US dollars per gigabyte-hour of such a task.
    fargate_gb_hour: f64,
}

const X86_64: Processor =
    Processor { lambda_gb_second: 0.000_016_666_7, fargate_vcpu_hour: 0.040_48, fargate_gb_hour: 0.004_445 };

const ARM64: Processor =
    Processor { lambda_gb_second: 0.000_013_333_4, fargate_vcpu_hour: 0.032_38, fargate_gb_hour: 0.003_56 };

/// Prices of this build's processor. All roles of a stack are built for the same one.
const OWN: Processor = if cfg!(target_arch = "aarch64") { ARM64 } else { X86_64 };

/// US dollars per [invocation](https://aws.amazon.com/lambda/pricing/).
const LAMBDA_INVOCATION: f64 = 0.20 / 1e6;

/// US dollars per hour of a [public IPv4 address](https://aws.amazon.com/vpc/pricing/).
const PUBLIC_IPV4_HOUR: f64 = 0.005;

/// US dollars per [request to S3](https://aws.amazon.com/s3/pricing/) of the class of GET.
const S3_GET: f64 = 0.000_4 / 1e3;

/// US dollars per [request to S3](https://aws.amazon.com/s3/pricing/) of the class of PUT, which has LIST too.
const S3_PUT: f64 = 0.005 / 1e3;

/// Time that HBees take. At 40 MB/s, an HBee of 2 GB decodes every column of a table; the bounds are half and twice that. Beside
/// it, a warm function answers after about 0.1 s and a cold one within 1 s.
pub const HBEE_PACE: Pace =
    Pace { bytes_per_second: Between { low: 20e6, high: 80e6 }, task_seconds: Between { low: 0.1, high: 1.0 } };

/// Seconds from the call that starts a comb until it answers: Fargate attaches a network interface and pulls the image.
pub const COMB_START_SECONDS: Between<f64> = Between { low: 15.0, high: 60.0 };

/// Sizes of the parts of a stack, which its prices depend on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sizes {
    /// Memory of the HBee function, in MB.
    pub hbee_memory_mb: u64,
    /// Memory of the Fuse function, in MB.
    pub fuse_memory_mb: u64,
    /// Size of a comb; zero for a stack without combs.
    pub comb: CombSize,
}

/// Size of a comb.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CombSize {
    /// vCPUs.
    pub vcpus: f64,
    /// Memory, in MB.
    pub memory_mb: u64,
    /// True if it has a public IPv4 address.
    pub public_ipv4: bool,
    /// Seconds without a query after which it stops.
    pub idle_seconds: u64,
}

impl CombSize {
    fn of(settings: &CombSettings) -> Self {
        Self {
            vcpus: settings.vcpus,
            memory_mb: settings.memory_mb,
            public_ipv4: settings.network == CombNetwork::PublicIpv4,
            idle_seconds: settings.idle.as_secs(),
        }
    }
}

impl Sizes {
    /// Returns the sizes in the settings of a stack.
    pub fn of(settings: &FuseSettings) -> Self {
        Self {
            hbee_memory_mb: settings.hbee.memory_mb,
            fuse_memory_mb: settings.memory_mb,
            comb: settings.combs.as_ref().map(CombSize::of).unwrap_or_default(),
        }
    }

    /// Returns the gigabyte-seconds of all functions.
    pub fn gb_seconds(&self, used: &Used) -> f64 {
        gb_seconds(used.task_milliseconds, self.hbee_memory_mb)
            + gb_seconds(used.fuse_milliseconds, self.fuse_memory_mb)
    }

    /// Returns the cost of `used` at list prices. Free tiers and stored bytes are not counted.
    pub fn cost(&self, used: &Used) -> Cost {
        self.cost_on(&OWN, used)
    }

    fn cost_on(&self, processor: &Processor, used: &Used) -> Cost {
        // Fuse is one more invocation.
        let invocations = used.invocations.saturating_add(1) as f64 * LAMBDA_INVOCATION;
        let functions = self.gb_seconds(used) * processor.lambda_gb_second + invocations;
        let hourly = self.comb.usd_per_hour(processor);
        let idle_ms = used.starts.combs.saturating_mul(self.comb.idle_seconds).saturating_mul(1000);
        let started_ms = used.starts.milliseconds.saturating_add(idle_ms);
        Cost {
            own_usd: functions + hours(used.comb_milliseconds) * hourly + requests_usd(used.requests),
            started_usd: hours(started_ms) * hourly,
        }
    }
}

impl CombSize {
    fn usd_per_hour(&self, processor: &Processor) -> f64 {
        let gb = self.memory_mb as f64 / 1024.0;
        let hourly = self.vcpus * processor.fargate_vcpu_hour + gb * processor.fargate_gb_hour;
        if self.public_ipv4 { hourly + PUBLIC_IPV4_HOUR } else { hourly }
    }
}

fn requests_usd(requests: Requests) -> f64 {
    requests.gets as f64 * S3_GET + requests.puts as f64 * S3_PUT
}

fn hours(milliseconds: u64) -> f64 {
    milliseconds as f64 / 3.6e6
}

fn gb_seconds(milliseconds: u64, memory_mb: u64) -> f64 {
    milliseconds as f64 / 1e3 * memory_mb as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use buzz_engine::CombStarts;

    use super::*;

    const SIZES: Sizes = Sizes {
        hbee_memory_mb: 2048,
        fuse_memory_mb: 3072,
        comb: CombSize { vcpus: 2.0, memory_mb: 4096, public_ipv4: false, idle_seconds: 300 },
    };

    fn functions() -> Used {
        Used { task_milliseconds: 64_000, invocations: 63, fuse_milliseconds: 2_000, ..Used::default() }
    }

    #[test]
    fn cost_of_functions_follows_the_price_list() {
        assert!((SIZES.gb_seconds(&functions()) - 134.0).abs() < 1e-9);
        let expected = 134.0 * 0.000_016_666_7 + 64.0 * 0.000_000_2;
        let cost = |processor| SIZES.cost_on(processor, &functions());
        assert!((cost(&X86_64).own_usd - expected).abs() < 1e-12);
        assert!((cost(&ARM64).own_usd / expected - 0.8).abs() < 0.01, "a fifth cheaper");
        assert!(cost(&X86_64).started_usd.abs() < 1e-12);
    }

    #[test]
    fn reserved_combs_are_own_cost_and_started_ones_are_apart() {
        let own = SIZES.cost_on(&X86_64, &functions()).own_usd;
        let hourly = 2.0 * 0.040_48 + 4.0 * 0.004_445;
        let reserved = Used { comb_milliseconds: 3_600_000, ..functions() };
        assert!((SIZES.cost_on(&X86_64, &reserved).own_usd - own - hourly).abs() < 1e-12);
        let public = Sizes { comb: CombSize { public_ipv4: true, ..SIZES.comb }, ..SIZES };
        assert!((public.cost_on(&X86_64, &reserved).own_usd - own - hourly - 0.005).abs() < 1e-12);

        // Two combs that start in 30 s each and are idle for 300 s each: 660 s.
        let starts = CombStarts { combs: 2, milliseconds: 60_000 };
        let cost = SIZES.cost_on(&X86_64, &Used { starts, ..functions() });
        assert!((cost.own_usd - own).abs() < 1e-12);
        assert!((cost.started_usd - hourly * 660.0 / 3600.0).abs() < 1e-12);
        assert!((cost.total_usd() - cost.own_usd - cost.started_usd).abs() < 1e-15);
    }

    #[test]
    fn classes_of_requests_have_their_prices() {
        let own = SIZES.cost_on(&X86_64, &functions()).own_usd;
        let cost = |requests| SIZES.cost_on(&X86_64, &Used { requests, ..functions() }).own_usd - own;
        assert!((cost(Requests { gets: 1000, puts: 0 }) - 0.000_4).abs() < 1e-12);
        assert!((cost(Requests { gets: 0, puts: 1000 }) - 0.005).abs() < 1e-12);
    }

    #[test]
    fn task_takes_its_bytes_at_the_rate_and_some_time_beside() {
        let seconds = HBEE_PACE.seconds(80_000_000);
        assert!((seconds.low - 1.1).abs() < 1e-9 && (seconds.high - 5.0).abs() < 1e-9, "{seconds:?}");
    }
}
