//! Versions and aliases of a function: <https://docs.aws.amazon.com/lambda/latest/dg/configuration-versions.html>.
//!
//! Every function begins with version 1 and the alias [`LIVE`] of it, as the deployment on AWS publishes them. No other alias
//! can be made.

use std::sync::Arc;

use super::Function;

/// Name of the alias under which a stack calls the version in use.
pub const LIVE: &str = "live";

/// Name of the version that a deployment updates.
const LATEST: &str = "$LATEST";

/// A version of a function. Two are equal if they are the same version with the same settings.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// `$LATEST`, or a number.
    pub(crate) name: String,
    pub(crate) function: Arc<Function>,
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.function, &other.function)
    }
}

/// All versions of a function.
#[derive(Debug)]
pub(super) struct Versions {
    latest: Arc<Function>,
    /// The published versions, of which the first is version 1; `None` for those that were deleted.
    published: Vec<Option<Arc<Function>>>,
    live: String,
}

impl Versions {
    /// Makes `function` the latest version, publishes it, and makes it live.
    pub(super) fn of(function: Function) -> Versions {
        let latest = Arc::new(function);
        Versions { published: vec![Some(Arc::clone(&latest))], latest, live: "1".to_string() }
    }

    pub(super) fn latest(&self) -> Function {
        Function::clone(&self.latest)
    }

    pub(super) fn update(&mut self, function: Function) {
        self.latest = Arc::new(function);
    }

    pub(super) fn publish(&mut self) -> String {
        self.published.push(Some(Arc::clone(&self.latest)));
        self.published.len().to_string()
    }

    pub(super) fn set_live(&mut self, version: &str) {
        assert!(self.published(version).is_some(), "version {version} does not exist");
        self.live = version.to_string();
    }

    pub(super) fn delete(&mut self, version: &str) {
        let index = Self::index(version).expect("a version is a number");
        *self.published.get_mut(index).expect("the version exists") = None;
    }

    /// Returns the version that a qualifier names: a number, `$LATEST`, or the alias. Without one, `$LATEST`.
    pub(super) fn find(&self, qualifier: Option<&str>) -> Option<Version> {
        let name = match qualifier {
            None | Some(LATEST) => {
                return Some(Version { name: LATEST.to_string(), function: Arc::clone(&self.latest) });
            }
            Some(LIVE) => &self.live,
            Some(number) => number,
        };
        Some(Version { name: name.to_string(), function: self.published(name)? })
    }

    fn published(&self, version: &str) -> Option<Arc<Function>> {
        self.published.get(Self::index(version)?)?.clone()
    }

    fn index(version: &str) -> Option<usize> {
        version.parse::<usize>().ok()?.checked_sub(1)
    }
}
