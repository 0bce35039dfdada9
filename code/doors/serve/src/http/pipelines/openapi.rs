//! The description of the routes in OpenAPI 3.1.

use serde_json::{Map, Value, json};

/// A route: method, path below [`super::PATH`], summary, schema of the body, and schema of the answer.
type Route = (&'static str, &'static str, &'static str, Option<&'static str>, &'static str);

const ROUTES: [Route; 25] = [
    ("get", "/ping", "Answers", None, "Text"),
    ("get", "/connectors", "Lists the connectors", None, "Collection"),
    ("get", "/connection_tables", "Lists the sources that are kept", None, "Collection"),
    ("post", "/connection_tables", "Keeps a source", Some("SourcePost"), "Collection"),
    ("delete", "/connection_tables/{name}", "Removes a source that is kept", None, "Empty"),
    ("get", "/connection_profiles", "Lists the connection profiles, without secrets", None, "Collection"),
    ("post", "/connection_profiles", "Keeps a connection profile", Some("ProfilePost"), "Collection"),
    ("post", "/connection_profiles/test", "Connects once with settings", Some("ProfilePost"), "Collection"),
    ("delete", "/connection_profiles/{name}", "Removes a connection profile", None, "Empty"),
    ("get", "/jobs", "Lists the jobs of all pipelines", None, "Collection"),
    ("get", "/pipelines", "Lists the pipelines", None, "Collection"),
    ("post", "/pipelines", "Creates and starts a pipeline", Some("PipelinePost"), "Pipeline"),
    ("post", "/pipelines/validate_query", "Plans a script", Some("QueryPost"), "Validation"),
    ("post", "/pipelines/preview", "Runs a script that keeps nothing", Some("PreviewPost"), "Pipeline"),
    ("get", "/pipelines/{id}", "Returns a pipeline", None, "Pipeline"),
    ("patch", "/pipelines/{id}", "Changes, stops or starts a pipeline", Some("PipelinePatch"), "Pipeline"),
    ("delete", "/pipelines/{id}", "Stops a pipeline, and deletes its state", None, "Empty"),
    ("post", "/pipelines/{id}/restart", "Starts a pipeline again", Some("PipelineRestart"), "Pipeline"),
    ("get", "/pipelines/{id}/jobs", "Returns the job of a pipeline", None, "Collection"),
    ("get", "/pipelines/{id}/jobs/{job}/errors", "Lists the messages of a job", None, "Collection"),
    ("get", "/pipelines/{id}/jobs/{job}/checkpoints", "Lists the last epochs of a job", None, "Collection"),
    (
        "get",
        "/pipelines/{id}/jobs/{job}/checkpoints/{epoch}/operator_checkpoint_groups",
        "Lists the state of each stage at an epoch",
        None,
        "Collection",
    ),
    ("get", "/pipelines/{id}/jobs/{job}/operator_metric_groups", "Lists the rates of each node", None, "Collection"),
    ("get", "/pipelines/{id}/jobs/{job}/output", "Follows the rows of a job", None, "Events"),
    ("get", "/openapi.json", "Describes the routes", None, "Collection"),
];

/// Returns the description.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for (method, path, summary, body, answer) in ROUTES {
        let operations = paths.entry(format!("{}{path}", super::PATH)).or_insert_with(|| json!({}));
        operations[method] = operation(path, summary, body, answer);
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Buzz pipelines", "version": env!("CARGO_PKG_VERSION")},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas(),
        },
    })
}

fn operation(path: &str, summary: &str, body: Option<&str>, answer: &str) -> Value {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> =
        names.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})).collect();
    let query: &[(&str, &str)] = match path {
        "/pipelines" if body.is_none() => &[("limit", "integer"), ("startingAfter", "string")],
        "/pipelines/{id}/jobs/{job}/output" => &[("fromEpoch", "integer")],
        _ => &[],
    };
    for (name, kind) in query {
        let mut schema = json!({"type": kind});
        if *kind == "integer" {
            schema["minimum"] = json!(0);
        }
        parameters.push(json!({"name": name, "in": "query", "required": false, "schema": schema}));
    }
    let content = match answer {
        "Empty" => json!({}),
        "Events" => json!({"text/event-stream": {"schema": {"type": "string"}}}),
        _ => json!({"application/json": {"schema": reference(answer)}}),
    };
    let failure =
        |text: &str| json!({"description": text, "content": {"application/json": {"schema": reference("Failure")}}});
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done", "content": content},
            "400": failure("The request is wrong; the message names the thing and what to do"),
            "401": failure("The request has no valid key"),
            "403": failure("The host or the page may not send requests, or clients may not change pipelines"),
            "404": failure("It does not exist, or the server keeps no pipelines"),
            "409": failure("The name is taken"),
            "413": {"description": "The body is too large"},
            "422": failure("The state is not readable, or the script cannot compute a row"),
            "429": failure("A bound is reached"),
            "503": failure("The store does not answer, or another change was faster; try again"),
        },
    });
    if let Some(body) = body {
        let is_required = body != "PipelineRestart";
        operation["requestBody"] =
            json!({"required": is_required, "content": {"application/json": {"schema": reference(body)}}});
    }
    operation
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn schemas() -> Value {
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false});
    let udfs = json!({"type": ["array", "null"], "maxItems": 0});
    let text = || json!({"type": "string"});
    let profile_name = json!({"type": "string", "minLength": 1, "maxLength": 63, "pattern": "^[A-Za-z0-9_-]+$"});
    let name = json!({"type": "string", "minLength": 1, "maxLength": 100, "pattern": "^[A-Za-z0-9_.-]*[A-Za-z0-9][A-Za-z0-9_.-]*$"});
    let script = json!({"type": "string", "minLength": 1, "maxLength": 1 << 20});
    let optional = |kind: &str| json!({"type": [kind, "null"]});
    let workers = json!({"type": ["integer", "null"], "minimum": 1, "maximum": 1024});
    let epoch = json!({"type": ["integer", "null"], "minimum": 10_000, "maximum": 86_400_000_000_u64});
    let stop = json!({"enum": ["none", "checkpoint", "graceful", "immediate", "force", null]});
    json!({
        "Text": text(),
        "Collection": {"type": "object"},
        "Pipeline": {"type": "object", "required": ["id", "name", "query", "stop", "graph", "preview"]},
        "Validation": {"type": "object", "required": ["graph", "errors"]},
        "Failure": {"type": "object", "required": ["error"]},
        "PipelinePost": object(&["name", "query"], json!({
            "name": name, "query": script, "udfs": udfs, "parallelism": workers,
            "checkpointIntervalMicros": epoch, "preview": {"enum": [false, null]},
        })),
        "QueryPost": object(&["query"], json!({"query": script, "udfs": udfs})),
        "PreviewPost": object(&["query"], json!({"query": script, "udfs": udfs, "enableSinks": optional("boolean")})),
        "PipelinePatch": object(&[], json!({
            "parallelism": workers, "checkpointIntervalMicros": epoch, "stop": stop, "query": optional("string"),
            "continue": optional("boolean"),
        })),
        "SourcePost": object(&["name", "statement"], json!({"name": text(), "statement": text()})),
        "ProfilePost": object(&["name", "connector", "config"], json!({
            "name": profile_name, "connector": {"enum": ["kafka", "sse", "websocket", "polling_http", "webhook"]},
            "config": {"type": "object"},
        })),
        "PipelineRestart": object(&[], json!({"force": optional("boolean"), "parallelism": workers})),
    })
}
