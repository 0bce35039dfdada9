//! The console: pages for a browser, compiled into the program. They load nothing from elsewhere and have no data; their calls
//! send the key.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::response::{IntoResponse, Redirect, Response};
use buzz_protocol::QueryError;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use ring::digest;

use crate::http::failed;

/// The path of the first page.
pub(super) const PATH: &str = "/console/";

/// Allows the pages to load and to call this server only, and no other page to frame them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One file of the console.
struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
}

/// The files, which `make console` builds.
const ASSETS: [Asset; 5] = [
    Asset {
        name: "index.html",
        kind: "text/html; charset=utf-8",
        content: include_bytes!("../../console/dist/index.html"),
    },
    Asset {
        name: "console.js",
        kind: "text/javascript; charset=utf-8",
        content: include_bytes!("../../console/dist/console.js"),
    },
    Asset {
        name: "console.css",
        kind: "text/css; charset=utf-8",
        content: include_bytes!("../../console/dist/console.css"),
    },
    Asset { name: "icon.svg", kind: "image/svg+xml", content: include_bytes!("../../console/dist/icon.svg") },
    Asset {
        name: "licences.txt",
        kind: "text/plain; charset=utf-8",
        content: include_bytes!("../../console/dist/licences.txt"),
    },
];

/// The tags of the files, in their order.
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| ASSETS.iter().map(|asset| tag(asset.content)).collect());

/// Returns the tag of a file: the start of its digest.
fn tag(content: &[u8]) -> HeaderValue {
    let mut tag = String::from('"');
    for byte in digest::digest(&digest::SHA256, content).as_ref().iter().take(12) {
        // Writing to a String cannot fail.
        _ = write!(tag, "{byte:02x}");
    }
    tag.push('"');
    HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""))
}

/// Checks if `path` is one of the console, whose files need no key.
pub(super) fn is_page(path: &str) -> bool {
    path == "/" || path == "/console" || path.starts_with(PATH)
}

/// Responds with the way to the first page.
pub(super) async fn to_first_page() -> Response {
    Redirect::temporary(PATH).into_response()
}

/// Responds with the first page.
pub(super) async fn first_page(headers: HeaderMap) -> Response {
    file(Path("index.html".to_string()), headers).await
}

/// Responds with a file, or without content if the browser has this version of it.
pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let found = ASSETS.iter().zip(TAGS.iter()).find(|(asset, _)| asset.name == name);
    let Some((asset, tag)) = found else {
        return failed(StatusCode::NOT_FOUND, &QueryError::invalid(format!("the console has no file `{name}`")));
    };
    let common = [
        (ETAG, tag.clone()),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    ];
    if headers.get(IF_NONE_MATCH) == Some(tag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(CONTENT_TYPE, asset.kind)], asset.content).into_response()
}
