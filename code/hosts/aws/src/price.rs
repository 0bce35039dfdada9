//! Cost of a query at AWS's list prices.

/// Date of the prices below, from AWS's public price list for us-east-2.
pub const PRICES_OF: &str = "autumn 2026";

/// Prices that depend on the processor that a stack is built for.
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

/// US dollars per invocation.
const LAMBDA_INVOCATION: f64 = 0.20 / 1e6;

/// US dollars per hour of a public IPv4 address.
const PUBLIC_IPV4_HOUR: f64 = 0.005;

/// US dollars per [GET request to S3](https://aws.amazon.com/s3/pricing/).
const S3_GET: f64 = 0.000_4 / 1e3;

/// Resources that a query used.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// Milliseconds of all HBee invocations, summed.
    pub hbee_milliseconds: u64,
    /// Memory of the HBee function, in MB.
    pub hbee_memory_mb: u64,
    /// Invocations of HBees, without throttled ones.
    pub invocations: u64,
    /// Milliseconds of Fuse.
    pub fuse_milliseconds: u64,
    /// Memory of the Fuse function, in MB.
    pub fuse_memory_mb: u64,
    /// Milliseconds for which combs were reserved for the query, summed over all combs.
    pub comb_milliseconds: u64,
    /// vCPUs of one comb.
    pub comb_vcpus: f64,
    /// Memory of one comb, in MB.
    pub comb_memory_mb: u64,
    /// True if each comb has a public IPv4 address.
    pub comb_public_ipv4: bool,
    /// Requests to storage.
    pub requests: u64,
}

impl Used {
    /// Returns the gigabyte-seconds of all functions.
    pub fn gb_seconds(&self) -> f64 {
        gb_seconds(self.hbee_milliseconds, self.hbee_memory_mb)
            + gb_seconds(self.fuse_milliseconds, self.fuse_memory_mb)
    }

    /// Returns the cost in US dollars at list prices. Combs count for the time of this query, not for the idle time
    /// before they stop. Free tiers and storage are not counted.
    pub fn cost_usd(&self) -> f64 {
        self.cost_on(&OWN)
    }

    fn cost_on(&self, processor: &Processor) -> f64 {
        // Fuse is one more invocation.
        let functions =
            self.gb_seconds() * processor.lambda_gb_second + (self.invocations + 1) as f64 * LAMBDA_INVOCATION;
        let hours = self.comb_milliseconds as f64 / 3.6e6;
        let comb_gb = self.comb_memory_mb as f64 / 1024.0;
        let hourly = self.comb_vcpus * processor.fargate_vcpu_hour + comb_gb * processor.fargate_gb_hour;
        let hourly = if self.comb_public_ipv4 { hourly + PUBLIC_IPV4_HOUR } else { hourly };
        functions + hours * hourly + self.requests as f64 * S3_GET
    }
}

/// Time of a task beside reading, in milliseconds.
const TASK_MILLISECONDS: u64 = 300;

/// Bytes that an HBee reads and processes in a second, for a query that decodes every column.
const BYTES_PER_SECOND: u64 = 40_000_000;

/// Estimates the cost of `tasks` tasks that read `bytes` together in HBees of `memory_mb`, in US dollars: an HBee reads
/// 40 MB/s. Fuse and combs are not counted; they cost a small part of a large query.
pub fn estimated_usd(tasks: u64, bytes: u64, memory_mb: u64) -> f64 {
    let reading = bytes.saturating_mul(1000) / BYTES_PER_SECOND;
    let used = Used {
        hbee_milliseconds: tasks.saturating_mul(TASK_MILLISECONDS).saturating_add(reading),
        hbee_memory_mb: memory_mb,
        invocations: tasks,
        ..Used::default()
    };
    used.cost_usd()
}

fn gb_seconds(milliseconds: u64, memory_mb: u64) -> f64 {
    milliseconds as f64 / 1e3 * memory_mb as f64 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimate_grows_with_bytes_and_tasks() {
        // 100 GB at 40 MB/s in 2 GB: 5,000 gigabyte-seconds.
        let usd = estimated_usd(1000, 100_000_000_000, 2048);
        let expected = (2.0 * (2500.0 + 300.0)) * OWN.lambda_gb_second + 1001.0 * LAMBDA_INVOCATION;
        assert!((usd - expected).abs() < 1e-9, "{usd}");
        assert!(estimated_usd(1000, 0, 2048) > estimated_usd(1, 0, 2048));
    }

    #[test]
    fn cost_follows_the_price_list() {
        let functions = Used {
            hbee_milliseconds: 64_000,
            hbee_memory_mb: 2048,
            invocations: 63,
            fuse_milliseconds: 2_000,
            fuse_memory_mb: 3072,
            ..Used::default()
        };
        assert!((functions.gb_seconds() - 134.0).abs() < 1e-9);
        let expected = 134.0 * 0.000_016_666_7 + 64.0 * 0.000_000_2;
        assert!((functions.cost_on(&X86_64) - expected).abs() < 1e-12);
        assert!((functions.cost_on(&ARM64) / expected - 0.8).abs() < 0.01, "a fifth cheaper");

        let comb = Used { comb_milliseconds: 3_600_000, comb_vcpus: 2.0, comb_memory_mb: 4096, ..functions };
        let hourly = 2.0 * 0.040_48 + 4.0 * 0.004_445;
        assert!((comb.cost_on(&X86_64) - expected - hourly).abs() < 1e-12);
        let public = Used { comb_public_ipv4: true, ..comb };
        assert!((public.cost_on(&X86_64) - expected - hourly - 0.005).abs() < 1e-12);
        let read = Used { requests: 1000, ..functions };
        assert!((read.cost_on(&X86_64) - expected - 0.000_4).abs() < 1e-12);
    }
}
