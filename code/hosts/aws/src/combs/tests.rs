use buzz_exchange::{InboxNetwork, InboxService, MemoryNetwork};
use buzz_protocol::{ErrorKind, QueryToken};
use buzz_storage::{Location, Stores};
use buzz_testkit::check_combs;
use datafusion_distributed::{Worker, WorkerChannel};

use super::tasks::{family, same_definition};
use super::*;
use crate::settings::CombNetwork;

fn settings() -> CombSettings {
    CombSettings {
        cluster: "buzz-rust-cluster-dev".to_string(),
        task_definition: "arn:aws:ecs:us-east-2:123456789012:task-definition/buzz-rust-hcomb-dev:7".to_string(),
        subnets: vec!["subnet-1".to_string()],
        security_groups: vec!["sg-1".to_string()],
        network: CombNetwork::PublicIpv4,
        port: 3333,
        tls: false,
        start_max: Duration::from_secs(60),
        vcpus: 2.0,
        memory_mb: 4096,
        disk_gib: 20,
        idle: Duration::from_secs(300),
    }
}

#[test]
fn client_tokens_fit_64_characters_and_differ_between_fleets_and_slots() {
    let fleet_of = |change: &dyn Fn(&mut CombSettings)| {
        let mut settings = settings();
        change(&mut settings);
        fleet("dev", &settings)
    };
    let usual = fleet_of(&|_| {});
    assert_eq!(usual, fleet_of(&|settings| settings.port = 1));
    assert_ne!(usual, fleet_of(&|settings| settings.task_definition.push('1')));
    assert_ne!(usual, fleet_of(&|settings| settings.network = CombNetwork::Ipv6Only));
    assert_ne!(usual, fleet_of(&|settings| settings.tls = true));
    assert_ne!(usual, fleet("prod", &settings()));

    let token = client_token(&usual, 63, u64::MAX);
    assert!(token.len() <= 64 && token.is_ascii(), "{token}");
    assert_ne!(client_token(&usual, 1, 0), client_token(&usual, 0, 1));
}

#[test]
fn definition_matches_by_arn_revision_or_family() {
    let running = "arn:aws:ecs:us-east-2:123456789012:task-definition/buzz-rust-hcomb-dev:7";
    for wanted in [running, "buzz-rust-hcomb-dev:7", "buzz-rust-hcomb-dev"] {
        assert_eq!(family(wanted), "buzz-rust-hcomb-dev");
        assert!(same_definition(wanted, running), "{wanted}");
    }
    assert!(!same_definition("buzz-rust-hcomb-dev:8", running));
    assert!(!same_definition("buzz-rust-hcomb", running));
}

#[test]
fn comb_address_depends_on_the_network() {
    let task = CombTask {
        ipv4: Some("10.0.1.5".to_string()),
        ipv6: Some("2600:1f16::5".to_string()),
        started_by: "buzz-12".to_string(),
        ..CombTask::default()
    };
    let address = |network| task.address(&CombSettings { network, ..settings() }).unwrap().to_string();
    assert_eq!(address(CombNetwork::PublicIpv4), "http://10.0.1.5:3333/");
    assert_eq!(address(CombNetwork::PrivateIpv4), "http://10.0.1.5:3333/");
    assert_eq!(address(CombNetwork::Ipv6Only), "http://[2600:1f16::5]:3333/");
    assert_eq!(task.slot(), Some(12));
    assert_eq!(CombTask { started_by: "somebody".to_string(), ..task }.slot(), None);
}

/// A simulated ECS: a task is listed at the second look after its start and runs at the third. The first `dying` tasks
/// stop instead.
#[derive(Debug)]
struct FakeTasks {
    network: Arc<MemoryNetwork>,
    state: Mutex<Vec<FakeTask>>,
    /// Number of tasks, from the first, that stop instead of running.
    dying: usize,
    /// Calls that are refused before others are accepted: to list tasks, and to run one.
    refusals: Mutex<[usize; 2]>,
}

#[derive(Debug, Clone)]
struct FakeTask {
    token: String,
    task: CombTask,
    looks: usize,
}

impl FakeTasks {
    fn new(dying: usize) -> Arc<Self> {
        Arc::new(Self { network: Arc::default(), state: Mutex::default(), dying, refusals: Mutex::default() })
    }

    /// Fails with `Unavailable` if a call of kind `call` is to be refused.
    fn check_accepts(&self, call: usize) -> Result<()> {
        let left = &mut self.refusals.lock()[call];
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        Err(QueryError::unavailable("Capacity is unavailable at this time"))
    }

    fn started(&self) -> usize {
        self.state.lock().len()
    }

    fn stop(&self, position: usize) {
        let task = &mut self.state.lock()[position].task;
        task.last_status = "STOPPED".to_string();
        self.network.remove(&task.address(&settings()).unwrap());
    }
}

#[async_trait]
impl Tasks for FakeTasks {
    async fn find(&self, known: &HashSet<String>) -> Result<(Vec<CombTask>, Vec<CombTask>)> {
        self.check_accepts(0)?;
        let mut state = self.state.lock();
        for (position, fake) in state.iter_mut().enumerate() {
            fake.looks += 1;
            if fake.looks < 3 || fake.task.is_over() {
                continue;
            }
            if position < self.dying {
                fake.task.last_status = "STOPPED".to_string();
                fake.task.stopped_reason = Some("CannotPullContainerError".to_string());
                continue;
            }
            fake.task.last_status = "RUNNING".to_string();
            fake.task.ipv4 = Some(format!("10.0.0.{position}"));
            let address = fake.task.address(&settings()).unwrap();
            self.network.add(address, Arc::default(), Worker::default());
        }
        let shown = state.iter().filter(|fake| fake.looks > 1);
        let tasks = shown.map(|fake| fake.task.clone());
        let (over, live): (Vec<_>, Vec<_>) = tasks.partition(CombTask::is_over);
        Ok((live, over.into_iter().filter(|task| known.contains(&task.arn)).collect()))
    }

    async fn run(&self, token: &str, started_by: &str, certificate: Option<&str>) -> Result<CombTask> {
        self.check_accepts(1)?;
        let mut state = self.state.lock();
        if let Some(known) = state.iter().find(|fake| fake.token == token) {
            return Ok(known.task.clone());
        }
        let task = CombTask {
            arn: format!("task/{}", state.len()),
            last_status: "PENDING".to_string(),
            desired_status: "RUNNING".to_string(),
            started_by: started_by.to_string(),
            certificate: certificate.map(str::to_string),
            ..CombTask::default()
        };
        state.push(FakeTask { token: token.to_string(), task: task.clone(), looks: 0 });
        Ok(task)
    }
}

/// Creates the combs of one Fuse, which `tasks` starts. All Fuses of a stack share `results`.
fn fuse(tasks: &Arc<FakeTasks>, results: &Results) -> FargateCombs {
    let network = Arc::clone(&tasks.network) as Arc<dyn Network>;
    FargateCombs::new("dev", settings(), Arc::clone(tasks) as _, results.clone(), network)
}

fn results() -> Results {
    let stores = Arc::new(Stores::default());
    let place = Location::parse("s3://bucket/results", std::path::Path::new("/")).unwrap();
    stores.replace(&place.store, Arc::new(object_store::memory::InMemory::new()));
    Results::new(stores.for_query(), place)
}

#[tokio::test]
async fn combs_of_fargate_keep_the_contract() {
    check_combs(&fuse(&FakeTasks::new(0), &results()), 3).await;
}

#[tokio::test]
async fn stack_without_combs_has_none_and_says_so() {
    let error = NoCombs.ready(1).await.unwrap_err();
    assert!(error.to_string().contains("this stack has none"), "{error}");
    assert!(error.to_string().contains("COMB_NETWORK=public_ipv4"), "{error}");
    assert!(!NoCombs.are_possible());
    assert!(NoCombs.warm(3).await.unwrap().is_empty());
}

#[tokio::test]
async fn refusals_of_ecs_are_not_final_before_the_time_is_over() {
    let tasks = FakeTasks::new(0);
    *tasks.refusals.lock() = [1, 1];
    assert_eq!(fuse(&tasks, &results()).ready(1).await.unwrap().len(), 1);
    assert_eq!(*tasks.refusals.lock(), [0, 0]);

    let tasks = FakeTasks::new(0);
    *tasks.refusals.lock() = [0, usize::MAX];
    let network = Arc::clone(&tasks.network) as Arc<dyn Network>;
    let short = CombSettings { start_max: Duration::ZERO, ..settings() };
    let combs = FargateCombs::new("dev", short, Arc::clone(&tasks) as _, results(), network);
    let error = combs.ready(1).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("only 0 of 1 combs") && error.to_string().contains("Capacity"), "{error}");
}

#[tokio::test]
async fn two_concurrent_first_queries_start_one_comb() {
    let (tasks, results) = (FakeTasks::new(0), results());
    let (one, other) = (fuse(&tasks, &results), fuse(&tasks, &results));
    assert!(one.warm(1).await.unwrap().is_empty());
    let (a, b) = tokio::join!(one.ready(1), other.ready(1));
    assert_eq!((a.unwrap(), tasks.started()), (b.unwrap(), 1));
    assert_eq!(other.ready(3).await.unwrap().len(), 3);
    assert_eq!((tasks.started(), one.warm(4).await.unwrap().len()), (3, 3));
}

#[tokio::test]
async fn stopped_comb_is_replaced_once() {
    let (tasks, results) = (FakeTasks::new(0), results());
    let first = fuse(&tasks, &results).ready(1).await.unwrap();
    tasks.stop(0);
    // ECS would return the stopped task for the same token.
    let (one, other) = (fuse(&tasks, &results), fuse(&tasks, &results));
    let (a, b) = tokio::join!(one.ready(1), other.ready(1));
    let a = a.unwrap();
    assert_eq!((&a, tasks.started()), (&b.unwrap(), 2));
    assert_ne!(a, first);
}

#[tokio::test]
async fn comb_that_rejected_a_query_is_not_reused_immediately() {
    let (tasks, results) = (FakeTasks::new(0), results());
    let combs = fuse(&tasks, &results);
    let first = combs.ready(1).await.unwrap();
    combs.avoid(&first[0]);
    let second = combs.ready(1).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(combs.warm(1).await.unwrap(), second);
}

/// A network in which the comb `old` has the build of an earlier deployment.
#[derive(Debug)]
struct Builds {
    combs: Arc<MemoryNetwork>,
    old: CombAddress,
}

#[async_trait]
impl InboxNetwork for Builds {
    async fn inbox(&self, address: &CombAddress, token: &QueryToken) -> Result<Arc<dyn InboxService>> {
        self.combs.inbox(address, token).await
    }
}

#[async_trait]
impl Network for Builds {
    async fn build(&self, address: &CombAddress) -> Result<String> {
        let build = self.combs.build(address).await?;
        Ok(if *address == self.old { "old".to_string() } else { build })
    }

    async fn worker(&self, address: &CombAddress) -> Result<Box<dyn WorkerChannel>> {
        self.combs.worker(address).await
    }
}

#[tokio::test]
async fn comb_of_another_build_is_not_used() {
    let (tasks, results) = (FakeTasks::new(0), results());
    let old = fuse(&tasks, &results).ready(1).await.unwrap().remove(0);
    let network = Arc::new(Builds { combs: Arc::clone(&tasks.network), old: old.clone() });
    let combs = FargateCombs::new("dev", settings(), Arc::clone(&tasks) as _, results, network);
    assert!(combs.warm(1).await.unwrap().is_empty());
    let new = combs.ready(1).await.unwrap();
    assert_eq!(tasks.started(), 2);
    assert!(!new.contains(&old) && combs.warm(1).await.unwrap() == new, "{new:?}");
}

#[tokio::test]
async fn combs_that_never_run_fail_with_the_stop_reason() {
    let (tasks, results) = (FakeTasks::new(usize::MAX), results());
    let error = fuse(&tasks, &results).ready(1).await.unwrap_err();
    assert_eq!(error.to_string(), "combs stop as soon as they are started: CannotPullContainerError");
    assert_eq!(tasks.started(), DEAD_MAX);

    let once = FakeTasks::new(1);
    assert_eq!(fuse(&once, &self::results()).ready(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn fate_is_a_limit_error_only_for_a_comb_that_ran_out_of_memory() {
    let tasks = FakeTasks::new(0);
    let combs = fuse(&tasks, &results());
    let ready = combs.ready(2).await.unwrap();
    assert!(combs.fate(&ready[0]).await.is_none(), "the comb still runs");
    for (position, reason) in
        ["Host EC2 (instance i-1) terminated.", "OutOfMemoryError: Container killed due to memory usage"]
            .into_iter()
            .enumerate()
    {
        tasks.state.lock()[position].task.stopped_reason = Some(reason.to_string());
        tasks.stop(position);
    }
    assert!(combs.fate(&ready[0]).await.is_none(), "another comb may succeed");
    let fate = combs.fate(&ready[1]).await.unwrap();
    assert_eq!(fate.kind.to_string(), "Limit");
    assert!(fate.message.contains("ran out of memory (OutOfMemoryError"), "{fate}");
}

/// Writes `text` as the fingerprint of the first task's certificate.
async fn record(tasks: &FakeTasks, results: &Results, text: &str) {
    let task = tasks.state.lock()[0].task.clone();
    let place = Location::parse(&task.certificate.unwrap(), std::path::Path::new("/")).unwrap();
    results.put_json(&place, &serde_json::json!({"sha256": text})).await.unwrap();
}

#[tokio::test]
async fn comb_with_tls_is_used_once_its_certificate_is_recorded() {
    let (tasks, results) = (FakeTasks::new(0), results());
    let network = Arc::clone(&tasks.network) as Arc<dyn Network>;
    let secure = CombSettings { tls: true, start_max: Duration::from_secs(3), ..settings() };
    let fuse =
        || FargateCombs::new("dev", secure.clone(), Arc::clone(&tasks) as _, results.clone(), Arc::clone(&network));
    let error = fuse().ready(1).await.unwrap_err();
    assert!(error.message.contains("has not recorded its certificate"), "{error}");
    assert_eq!(tasks.started(), 1);
    let place = tasks.state.lock()[0].task.certificate.clone().unwrap();
    assert!(
        place.starts_with("s3://bucket/results/combs/certificates/buzz-") && place.ends_with("-0-0.json"),
        "{place}"
    );

    record(&tasks, &results, "no fingerprint").await;
    assert!(fuse().warm(1).await.unwrap().is_empty());

    let digits = "ab".repeat(32);
    record(&tasks, &results, &digits).await;
    let pinned = CombAddress(format!("https://10.0.0.0:3333/#{digits}").parse().unwrap());
    assert!(fuse().warm(1).await.unwrap().is_empty(), "no comb with this certificate answers");
    tasks.network.add(pinned.clone(), Arc::default(), Worker::default());
    assert_eq!(fuse().warm(1).await.unwrap(), [pinned]);
}

#[tokio::test]
async fn comb_that_records_its_certificate_elsewhere_is_not_used() {
    let (tasks, results) = (FakeTasks::new(0), results());
    let network = Arc::clone(&tasks.network) as Arc<dyn Network>;
    let secure = CombSettings { tls: true, start_max: Duration::ZERO, ..settings() };
    let combs = FargateCombs::new("dev", secure, Arc::clone(&tasks) as _, results.clone(), network);
    _ = combs.ready(1).await.unwrap_err();
    // A comb answers with the certificate that these objects name.
    let digits = "ab".repeat(32);
    let pinned = CombAddress(format!("https://10.0.0.0:3333/#{digits}").parse().unwrap());
    tasks.network.add(pinned, Arc::default(), Worker::default());
    for name in ["names.json", "combs/certificates/names.json"] {
        let uri = format!("s3://bucket/results/{name}");
        let place = Location::parse(&uri, std::path::Path::new("/")).unwrap();
        results.put_json(&place, &serde_json::json!({"sha256": digits})).await.unwrap();
    }
    for foreign in ["s3://bucket/results/names.json", "s3://other/results/combs/certificates/names.json", "", "names"] {
        tasks.state.lock()[0].task.certificate = Some(foreign.to_string());
        for _ in 0..3 {
            assert!(combs.warm(1).await.unwrap().is_empty(), "{foreign}");
        }
    }
    tasks.state.lock()[0].task.certificate = Some("s3://bucket/results/combs/certificates/names.json".to_string());
    assert_eq!(combs.warm(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn combs_of_another_setting_of_tls_are_not_used() {
    let (tasks, results) = (FakeTasks::new(0), results());
    let plain = fuse(&tasks, &results).ready(1).await.unwrap();
    let network = Arc::clone(&tasks.network) as Arc<dyn Network>;
    let secure = CombSettings { tls: true, ..settings() };
    let combs = FargateCombs::new("dev", secure, Arc::clone(&tasks) as _, results.clone(), network);
    assert!(combs.warm(1).await.unwrap().is_empty());
    assert_eq!(fuse(&tasks, &results).warm(1).await.unwrap(), plain);
}

#[tokio::test]
async fn record_of_an_earlier_comb_is_not_kept() {
    let (tasks, results) = (FakeTasks::new(0), results());
    let network = Arc::clone(&tasks.network) as Arc<dyn Network>;
    let secure = CombSettings { tls: true, start_max: Duration::ZERO, ..settings() };
    let combs = FargateCombs::new("dev", secure, Arc::clone(&tasks) as _, results.clone(), network);
    _ = combs.ready(1).await.unwrap_err();
    // ECS forgets a token after its task has ended, and starts another task by it.
    record(&tasks, &results, &"cd".repeat(32)).await;
    for _ in 0..3 {
        assert!(combs.warm(1).await.unwrap().is_empty());
    }
    let digits = "ab".repeat(32);
    record(&tasks, &results, &digits).await;
    let pinned = CombAddress(format!("https://10.0.0.0:3333/#{digits}").parse().unwrap());
    tasks.network.add(pinned.clone(), Arc::default(), Worker::default());
    assert_eq!(combs.warm(1).await.unwrap(), [pinned]);
}
