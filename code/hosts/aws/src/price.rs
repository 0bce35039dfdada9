//! Cost of a query at AWS's list prices.

use buzz_engine::{Between, Cost, Used};
use buzz_host::Pace;
use buzz_protocol::Requests;

use crate::settings::{CombNetwork, CombSettings, FuseSettings};

/// Date of the prices below, from AWS's public price lists.
const PRICES_FROM: &str = "autumn 2026";

/// Region whose prices are taken where a region is not in the table.
const USUAL_REGION: &str = "us-east-2";

/// Prices that depend on the region, one region per line: US dollars per vCPU-hour and per gigabyte-hour of a
/// [Fargate](https://aws.amazon.com/fargate/pricing/) task on x86, and per 1,000 [requests to S3](https://aws.amazon.com/s3/pricing/)
/// of the classes of PUT and GET. Those of a function are the same in all of these regions.
const TABLE: &str = include_str!("prices.csv");

/// US dollars per gigabyte-second of a function, [first tier](https://aws.amazon.com/lambda/pricing/), by processor.
const LAMBDA_X86_64: f64 = 0.000_016_666_7;
const LAMBDA_ARM64: f64 = 0.000_013_333_4;

/// Price of a Fargate task on arm64, as a part of that on x86.
const FARGATE_ARM64: f64 = 0.8;

/// True if this build is for arm64. All roles of a stack are built for the same processor.
const ARM64: bool = cfg!(target_arch = "aarch64");

/// US dollars per [invocation](https://aws.amazon.com/lambda/pricing/).
const LAMBDA_INVOCATION: f64 = 0.20 / 1e6;

/// US dollars per hour of a [public IPv4 address](https://aws.amazon.com/vpc/pricing/).
const PUBLIC_IPV4_HOUR: f64 = 0.005;

/// Prices of a region.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// The region whose prices these are.
    pub region: &'static str,
    vcpu_hour: f64,
    gb_hour: f64,
    put: f64,
    get: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Self::of(USUAL_REGION)
    }
}

impl Prices {
    /// Returns the prices of `region`, or those of us-east-2 if the region is not in the table.
    pub fn of(region: &str) -> Self {
        let find =
            |region: &str| TABLE.lines().skip(1).find_map(|line| Self::read(line).filter(|it| it.region == region));
        let none = Self { region: "no region", vcpu_hour: 0.0, gb_hour: 0.0, put: 0.0, get: 0.0 };
        find(region).or_else(|| find(USUAL_REGION)).unwrap_or(none)
    }

    /// Returns the region and the date of the prices, such as `eu-central-1, autumn 2026`.
    pub fn date(&self) -> String {
        format!("{}, {PRICES_FROM}", self.region)
    }

    fn read(line: &'static str) -> Option<Self> {
        let mut fields = line.split(',');
        let region = fields.next()?;
        let mut number = || fields.next()?.parse::<f64>().ok();
        let (vcpu_hour, gb_hour, put, get) = (number()?, number()?, number()? / 1e3, number()? / 1e3);
        Some(Self { region, vcpu_hour, gb_hour, put, get })
    }

    fn requests_usd(&self, requests: Requests) -> f64 {
        requests.gets as f64 * self.get + requests.puts as f64 * self.put
    }
}

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
    /// Prices of the stack's region.
    pub prices: Prices,
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
            prices: Prices::of(&settings.region),
        }
    }

    /// Returns the gigabyte-seconds of all functions.
    pub fn gb_seconds(&self, used: &Used) -> f64 {
        gb_seconds(used.task_milliseconds, self.hbee_memory_mb)
            + gb_seconds(used.fuse_milliseconds, self.fuse_memory_mb)
    }

    /// Returns the cost of `used` at list prices. Free tiers and stored bytes are not counted.
    pub fn cost(&self, used: &Used) -> Cost {
        self.cost_on(ARM64, used)
    }

    fn cost_on(&self, arm64: bool, used: &Used) -> Cost {
        // Fuse is one more invocation.
        let invocations = used.invocations.saturating_add(1) as f64 * LAMBDA_INVOCATION;
        let gb_second = if arm64 { LAMBDA_ARM64 } else { LAMBDA_X86_64 };
        let functions = self.gb_seconds(used) * gb_second + invocations;
        let hourly = self.comb.usd_per_hour(&self.prices, arm64);
        let idle_ms = used.starts.combs.saturating_mul(self.comb.idle_seconds).saturating_mul(1000);
        let started_ms = used.starts.milliseconds.saturating_add(idle_ms);
        Cost {
            own_usd: functions + hours(used.comb_milliseconds) * hourly + self.prices.requests_usd(used.requests),
            started_usd: hours(started_ms) * hourly,
        }
    }
}

impl CombSize {
    fn usd_per_hour(&self, prices: &Prices, arm64: bool) -> f64 {
        let gb = self.memory_mb as f64 / 1024.0;
        let x86_64 = self.vcpus * prices.vcpu_hour + gb * prices.gb_hour;
        let hourly = if arm64 { x86_64 * FARGATE_ARM64 } else { x86_64 };
        if self.public_ipv4 { hourly + PUBLIC_IPV4_HOUR } else { hourly }
    }
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

    fn sizes() -> Sizes {
        Sizes {
            hbee_memory_mb: 2048,
            fuse_memory_mb: 3072,
            comb: CombSize { vcpus: 2.0, memory_mb: 4096, public_ipv4: false, idle_seconds: 300 },
            prices: Prices::default(),
        }
    }

    fn functions() -> Used {
        Used { task_milliseconds: 64_000, invocations: 63, fuse_milliseconds: 2_000, ..Used::default() }
    }

    #[test]
    fn cost_of_functions_follows_the_price_list() {
        assert!((sizes().gb_seconds(&functions()) - 134.0).abs() < 1e-9);
        let expected = 134.0 * 0.000_016_666_7 + 64.0 * 0.000_000_2;
        let cost = |arm64| sizes().cost_on(arm64, &functions());
        assert!((cost(false).own_usd - expected).abs() < 1e-12);
        assert!((cost(true).own_usd / expected - 0.8).abs() < 0.01, "a fifth cheaper");
        assert!(cost(false).started_usd.abs() < 1e-12);
    }

    #[test]
    fn reserved_combs_are_own_cost_and_started_ones_are_apart() {
        let own = sizes().cost_on(false, &functions()).own_usd;
        let hourly = 2.0 * 0.040_48 + 4.0 * 0.004_445;
        let reserved = Used { comb_milliseconds: 3_600_000, ..functions() };
        assert!((sizes().cost_on(false, &reserved).own_usd - own - hourly).abs() < 1e-12);
        let public = Sizes { comb: CombSize { public_ipv4: true, ..sizes().comb }, ..sizes() };
        assert!((public.cost_on(false, &reserved).own_usd - own - hourly - 0.005).abs() < 1e-12);

        // Two combs that start in 30 s each and are idle for 300 s each: 660 s.
        let starts = CombStarts { combs: 2, milliseconds: 60_000 };
        let cost = sizes().cost_on(false, &Used { starts, ..functions() });
        assert!((cost.own_usd - own).abs() < 1e-12);
        assert!((cost.started_usd - hourly * 660.0 / 3600.0).abs() < 1e-12);
        assert!((cost.total_usd() - cost.own_usd - cost.started_usd).abs() < 1e-15);
    }

    #[test]
    fn classes_of_requests_have_their_prices() {
        let own = sizes().cost_on(false, &functions()).own_usd;
        let cost = |requests| sizes().cost_on(false, &Used { requests, ..functions() }).own_usd - own;
        assert!((cost(Requests { gets: 1000, puts: 0 }) - 0.000_4).abs() < 1e-12);
        assert!((cost(Requests { gets: 0, puts: 1000 }) - 0.005).abs() < 1e-12);
    }

    #[test]
    fn each_region_has_its_prices_and_another_those_of_us_east_2() {
        assert_eq!(Prices::of("sa-east-1").date(), "sa-east-1, autumn 2026");
        assert_eq!(Prices::of("mars-north-1"), Prices::default());
        assert_eq!(Prices::default().region, "us-east-2");
        for line in TABLE.lines().skip(1) {
            let prices = Prices::read(line).unwrap_or_else(|| panic!("{line} is not a line of prices"));
            assert!((0.03..0.1).contains(&prices.vcpu_hour) && prices.get < prices.put, "{line}");
        }
        let reserved = Used { comb_milliseconds: 3_600_000, ..Used::default() };
        let cost = |region| Sizes { prices: Prices::of(region), ..sizes() }.cost_on(false, &reserved).own_usd;
        assert!((cost("sa-east-1") - cost("us-east-2") - 2.0 * 0.029_12 - 4.0 * 0.003_155).abs() < 1e-9);
    }

    #[test]
    fn task_takes_its_bytes_at_the_rate_and_some_time_beside() {
        let seconds = HBEE_PACE.seconds(80_000_000);
        assert!((seconds.low - 1.1).abs() < 1e-9 && (seconds.high - 5.0).abs() < 1e-9, "{seconds:?}");
    }
}
