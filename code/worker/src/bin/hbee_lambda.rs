//! The `bootstrap` program of the HBee Lambda function.

use std::sync::Arc;

use buzz_worker::counting::counting_storage;
use buzz_worker::environment::{environment, function_memory_mb, know_regions};
use buzz_worker::hbee::{HBeeEvent, HBeeFunction};
use buzz_worker::log;
use buzz_worker::process::failed;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};

#[tokio::main]
async fn main() -> Result<(), Error> {
    log::start();
    let requests = Arc::default();
    let [tables, own] = [counting_storage(&requests), counting_storage(&requests)];
    know_regions(&tables, environment)?;
    know_regions(&own, environment)?;
    let function = HBeeFunction::new(Arc::new(tables), own, requests, function_memory_mb(environment)?)?;
    let function = &function;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<HBeeEvent>| {
        let answered = function.answer(event.payload, event.context.deadline).await;
        answered.map_err(|error| -> Diagnostic { failed(&error) })
    }))
    .await
}
