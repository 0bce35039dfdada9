//! The bootstrap of the Fuse function on Lambda.

use std::sync::Arc;
use std::time::Duration;

use buzz_aws::clients::sdk;
use buzz_aws::combs::tasks::EcsTasks;
use buzz_aws::combs::{FargateCombs, NoCombs};
use buzz_aws::lambda::LambdaCompute;
use buzz_aws::price::Sizes;
use buzz_aws::results::Results;
use buzz_aws::settings::FuseSettings;
use buzz_exchange::{Network, TcpNetwork};
use buzz_fuse::Fuse;
use buzz_host::{Combs, Host, ObjectRoot, ResultCache};
use buzz_lambda::FuseFunction;
use buzz_storage::Stores;
use buzz_worker::environment::{access, environment, set_regions};
use buzz_worker::log;
use buzz_worker::process::{failed, run_main};
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use serde_json::Value;

/// Time added to the HBee function's timeout to get the read timeout of its answer.
const ANSWER_MARGIN: Duration = Duration::from_secs(10);

fn main() -> Result<(), Error> {
    run_main(serve)
}

async fn serve() -> Result<(), Error> {
    log::start("buzz-fuse");
    let settings = FuseSettings::read(environment)?;
    let (_, access) = access(environment)?;
    let stores = Stores::default().with_access(access);
    set_regions(&stores, environment)?;
    let stores = Arc::new(stores);
    let results = Results::new(stores.for_stack(), settings.results.clone());
    let sdk = sdk(settings.hbee.timeout + ANSWER_MARGIN, None).await;
    let network: Arc<dyn Network> = Arc::new(TcpNetwork::default());
    let compute = Arc::new(LambdaCompute::new(&sdk, settings.hbee.clone(), results.clone(), Sizes::of(&settings)));
    let combs: Arc<dyn Combs> = match &settings.combs {
        None => Arc::new(NoCombs),
        Some(combs) => {
            let tasks = Arc::new(EcsTasks::new(&sdk, combs.clone()));
            Arc::new(FargateCombs::new(&settings.stage, combs.clone(), tasks, results.clone(), Arc::clone(&network)))
        }
    };
    // Connects while the first event is parsed and planned.
    let connecting = Arc::clone(&compute);
    tokio::spawn(async move { connecting.connect().await });

    let objects = Arc::new(ObjectRoot::at(settings.results.clone()));
    let answers = results.answers()?;
    let cache = Some(Arc::new(ResultCache::in_store(results.store(&answers)?, answers.path)));
    let fuse = Fuse::new(Host { stores, compute, combs, network, objects, cache });
    let function = FuseFunction::new(Arc::new(fuse), results, settings, &sdk)?;
    let function = &function;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| {
        let answered = function.answer(&event.payload, event.context.deadline).await;
        buzz_telemetry::flush().await;
        answered.map_err(|error| -> Diagnostic { failed(&error) })
    }))
    .await
}
