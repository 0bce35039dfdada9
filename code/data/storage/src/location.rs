//! Places in stores.

use std::fmt;
use std::path::{Component, Path as FilePath, PathBuf};

use buzz_protocol::{NO_USER_INFO, QueryError, Result, without_user_info};
use object_store::path::Path;
use url::Url;

/// A place in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Root of the store, such as `file:///` or `s3://bucket/`.
    pub store: Url,
    /// Path within the store; empty for its root.
    pub path: Path,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.store.scheme() {
            "file" => write!(f, "/{}", self.path),
            _ => write!(f, "{}{}", self.store, self.path),
        }
    }
}

/// The remedy for places on web servers.
const NO_WEB: &str =
    "files are not read from web servers; download it, or give a pipe that is read once, such as `<(curl -sSf URL)`";

impl Location {
    /// Parses `uri`: an `s3://` or `file://` URI, or a path, which is relative to `base` unless it is absolute. Opens
    /// nothing.
    ///
    /// # Errors
    /// `Invalid` for an unsupported scheme or a malformed path.
    pub fn parse(uri: &str, base: &FilePath) -> Result<Location> {
        if let Some(redacted) = without_user_info(uri) {
            return Err(QueryError::invalid(format!("the URI `{redacted}` {NO_USER_INFO}")));
        }
        let bad = |why: String| QueryError::invalid(format!("`{uri}` is not a place to read from: {why}"));
        match uri.split_once("://") {
            Some(("file", path)) => Self::local(FilePath::new(path)).map_err(bad),
            Some(("s3" | "s3a", rest)) => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(bad("the bucket is missing".to_string()));
                }
                if !bucket.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
                    return Err(bad("a bucket's name has only letters, digits, `.`, `-` and `_`".to_string()));
                }
                let store = Url::parse(&format!("s3://{bucket}/")).map_err(|error| bad(error.to_string()))?;
                let path = Path::parse(key.trim_end_matches('/')).map_err(|error| bad(error.to_string()))?;
                Ok(Location { store, path })
            }
            Some(("http" | "https", _)) => Err(bad(NO_WEB.to_string())),
            Some((scheme, _)) => Err(bad(format!("the scheme `{scheme}://` is not supported; use a path or s3://"))),
            None if uri.is_empty() => Err(bad("it is empty".to_string())),
            None => Self::local(&base.join(uri)).map_err(bad),
        }
    }

    fn local(path: &FilePath) -> Result<Location, String> {
        let absolute = std::path::absolute(path).map_err(|error| error.to_string())?;
        let mut clean = PathBuf::new();
        for part in absolute.components() {
            match part {
                Component::ParentDir => {
                    clean.pop();
                }
                Component::CurDir => {}
                part => clean.push(part),
            }
        }
        let text = clean.to_str().ok_or("it is not valid UTF-8")?;
        let path = Path::parse(text.trim_matches('/')).map_err(|error| error.to_string())?;
        Ok(Location { store: Url::parse("file:///").expect("a constant URL parses"), path })
    }

    /// Returns the place `relative` below this one.
    ///
    /// # Errors
    /// `Data` if `relative` is not a path.
    pub fn join(&self, relative: &str) -> Result<Location> {
        // Parsed as one text, since a log may name 100,000s of files.
        let path = match (self.path.as_ref(), relative.trim_matches('/')) {
            (folder, "") => Path::parse(folder),
            ("", relative) => Path::parse(relative),
            (folder, relative) => Path::parse(format!("{folder}/{relative}")),
        };
        let path = path.map_err(|error| QueryError::data(format!("`{relative}` is not a path: {error}")))?;
        Ok(Location { store: self.store.clone(), path })
    }

    /// Returns the folder that holds this place.
    #[must_use]
    pub fn parent(&self) -> Location {
        let parts: Vec<_> = self.path.parts().collect();
        let path = parts[..parts.len().saturating_sub(1)].iter().cloned().collect();
        Location { store: self.store.clone(), path }
    }

    /// Returns the URL of this place with a slash at the end, as delta-rs requires it.
    pub fn directory_url(&self) -> Url {
        let mut url = self.store.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(self.path.parts().map(|part| part.as_ref().to_string())).push("");
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_is_parsed_to_store_and_path() {
        let base = FilePath::new("/lake/queries");
        let place = |uri: &str| Location::parse(uri, base).map(|place| place.to_string()).map_err(|e| e.to_string());
        assert_eq!(place("taxi.parquet").unwrap(), "/lake/queries/taxi.parquet");
        assert_eq!(place("../taxi/").unwrap(), "/lake/taxi");
        assert_eq!(place("/data/a=b%2Fc/x").unwrap(), "/data/a=b%2Fc/x");
        assert_eq!(place("file:///data/t").unwrap(), "/data/t");
        assert_eq!(place("s3://bucket/a/b/").unwrap(), "s3://bucket/a/b");
        assert!(place("ftp://host/x").unwrap_err().contains("the scheme `ftp://` is not supported"));
        assert!(place("https://host/x.csv").unwrap_err().contains("not read from web servers"));
        assert!(place("").unwrap_err().contains("it is empty"));
        assert_eq!(place("s3://bucket/a@b:c.parquet").unwrap(), "s3://bucket/a@b:c.parquet");
        for keyed in ["s3://KEY:SECRET@bucket/a", "s3a://KEY@bucket/a", "s3://KEY:SEC/RET@bucket/a", "s3://KEY:SECRET"]
        {
            let told = place(keyed).unwrap_err();
            assert!(told.contains("`s3") && told.contains("://***` contains a user name, keys or a port"), "{told}");
            assert!(!told.contains("KEY") && !told.contains("SEC"), "{told}");
        }
        for bucket in ["a%2fb", "a?b", "a#b", "a b"] {
            assert!(place(&format!("s3://{bucket}/x")).unwrap_err().contains("a bucket's name has only"), "{bucket}");
        }
    }
}
