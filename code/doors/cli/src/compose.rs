//! Puts an engine together. The only module that names parts of engines.

use std::ffi::OsString;
use std::path::PathBuf;
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
    let host = match answers_folder(|name| std::env::var_os(name)) {
        Some(folder) => host.keeping_in(folder),
        None => host,
    };
    Ok(Arc::new(Fuse::new(host.host())))
}

/// Returns the folder in which results are kept with the option `reuse`: `BUZZ_ANSWERS`, or one for caches.
fn answers_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("BUZZ_ANSWERS").or_else(|| {
        let caches = set("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
        Some(caches.or_else(|| Some(set("HOME")?.join(".cache")))?.join("buzz/answers"))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_kept_in_the_folder_for_caches() {
        let folder = |set: &[(&str, &str)]| {
            let found = answers_folder(|name| {
                set.iter().find(|(other, _)| *other == name).map(|(_, value)| OsString::from(value))
            });
            found.map(|folder| folder.display().to_string())
        };
        assert_eq!(folder(&[]), None);
        assert_eq!(folder(&[("HOME", "/h")]).as_deref(), Some("/h/.cache/buzz/answers"));
        assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "rel")]).as_deref(), Some("/h/.cache/buzz/answers"));
        assert_eq!(folder(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]).as_deref(), Some("/c/buzz/answers"));
        assert_eq!(folder(&[("HOME", "/h"), ("BUZZ_ANSWERS", "a")]).as_deref(), Some("a"));
        assert_eq!(folder(&[("HOME", ""), ("BUZZ_ANSWERS", "")]), None);
    }
}
