//! Puts an engine together. The only module that names parts of engines.

use std::sync::Arc;

use buzz_client::StackEngine;
use buzz_engine::Engine;
use buzz_fuse::Fuse;
use buzz_local::LocalHost;
use buzz_protocol::{Options, Result};
use buzz_storage::Stores;

use crate::args::StackArguments;

/// Makes the engine in this process. `options` set its transport and memory.
///
/// # Errors
/// `Internal` if there is no directory for temporary files.
pub fn local_engine(options: &Options, threads: usize) -> Result<Arc<dyn Engine>> {
    let host = LocalHost::new(Arc::new(stores()), options, threads)?;
    Ok(Arc::new(Fuse::new(host.host())))
}

/// Makes the engine of the stack that `stack` names.
///
/// # Errors
/// `Invalid` if no region is set.
pub(crate) async fn stack_engine(stack: &StackArguments) -> Result<StackEngine> {
    let function = match (&stack.function, &stack.stack) {
        (Some(function), _) => function.clone(),
        (None, name) => buzz_client::function_of(name.as_deref().unwrap_or_default()),
    };
    StackEngine::connect(function, stack.endpoint_url.as_deref()).await
}

/// Makes the stores of one command. If the variables have no credentials, they are looked up where the AWS command line
/// does.
pub(crate) fn stores() -> Stores {
    let stores = Stores::default();
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
        return stores.with_credentials(Arc::new(buzz_aws::credentials::UsualCredentials::default()));
    }
    stores
}
