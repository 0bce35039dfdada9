//! The `bootstrap` program of the HBee Lambda function.

use std::convert::Infallible;
use std::sync::Arc;

use buzz_storage::Stores;
use buzz_worker::environment::{access, environment, function_memory_mb, set_regions};
use buzz_worker::hbee::{HBeeAnswer, HBeeEvent, HBeeFunction};
use buzz_worker::log;
use buzz_worker::process::run_main;
use lambda_runtime::{Error, LambdaEvent, service_fn};

fn main() -> Result<(), Error> {
    run_main(serve)
}

async fn serve() -> Result<(), Error> {
    log::start("buzz-hbee");
    let (own, access) = access(environment)?;
    let stores = Stores::default().with_access(access);
    set_regions(&stores, environment)?;
    let function = HBeeFunction::new(Arc::new(stores), own, function_memory_mb(environment)?)?;
    let function = &function;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<HBeeEvent>| {
        let ran = function.answer(event.payload, event.context.deadline).await;
        buzz_telemetry::flush().await;
        Ok::<_, Infallible>(HBeeAnswer::from(ran))
    }))
    .await
}
