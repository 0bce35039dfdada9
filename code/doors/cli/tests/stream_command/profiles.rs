//! Connection profiles of a server.

use serde_json::{Value, json};

use crate::jobs::expect;
use crate::served::Server;
use crate::support::{Folder, Result};

/// Connection profiles are kept, read by tables, tried and removed, and no response has their secrets.
pub(crate) fn kept_and_read() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(&folder, &[])?;
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let endpoint = format!("http://{}/events", listener.local_addr()?);
    let config = json!({"endpoint": format!("{endpoint}?token=word"), "headers": "Authorization: Bearer word"});
    let profile = json!({"name": "api", "connector": "sse", "config": config});
    let kept = server.ok("POST", "/connection_profiles", &profile)?;
    let shown = json!({"endpoint": endpoint, "headers": "********"});
    let expected = json!(["api", "api", "sse", shown]);
    expect("the profile", &json!([kept["id"], kept["name"], kept["connector"], kept["config"]]), &expected)?;
    expect("a second one", &json!(server.call("POST", "/connection_profiles", &profile)?.0), &json!(409))?;
    let tried = server.ok("POST", "/connection_profiles/test", &profile)?;
    expect("the test", &json!([tried["error"], tried["done"]]), &json!([false, true]))?;
    for (body, message) in [
        (json!({"name": "a b", "connector": "sse", "config": {}}), "not a valid name of a connection profile"),
        (json!({"name": "a", "connector": "sse", "config": {"more": "word"}}), "`more` is unknown"),
        (json!({"name": "a", "connector": "word", "config": {"headers": 1}, "x": "word"}), "not valid at line"),
    ] {
        let (status, error) = server.call("POST", "/connection_profiles", &body)?;
        let text = error["error"].as_str().unwrap_or_default();
        if status != 400 || !text.contains(message) || text.contains("word") {
            return Err(format!("{body}: {status} {error}").into());
        }
    }
    server.stop()?;

    let server = Server::start(&folder, &[])?;
    let listed = server.ok("GET", "/connection_profiles", &Value::Null)?;
    expect("the list", &listed["data"], &json!([kept]))?;
    let script = |profile: &str| {
        let table = "CREATE TABLE events (n BIGINT) WITH (connector = 'sse', connection_profile = 'PROFILE');";
        json!({"query": format!("{}\nSELECT n FROM events;", table.replace("PROFILE", profile))})
    };
    let errors = |profile: &str| -> Result<Value> {
        Ok(server.ok("POST", "/pipelines/validate_query", &script(profile))?["errors"].clone())
    };
    expect("a table of the profile", &errors("api")?, &json!([]))?;
    let unknown = errors("other")?.to_string();
    if !unknown.contains("connection profile `other` of table `events` does not exist") {
        return Err(unknown.into());
    }
    expect("removal", &json!(server.call("DELETE", "/connection_profiles/api", &Value::Null)?.0), &json!(200))?;
    for name in ["api", "..%2Fjobs"] {
        let path = format!("/connection_profiles/{name}");
        expect(name, &json!(server.call("DELETE", &path, &Value::Null)?.0), &json!(404))?;
    }
    expect("the list", &server.ok("GET", "/connection_profiles", &Value::Null)?["data"], &json!([]))
}
