//! Serves all services on one endpoint.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Request, State};
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::connections::{Connections, Listed};
use crate::ecs::{self, Ecs, TaskDefinition};
use crate::keys::{Keys, Refusal};
use crate::lambda::{self, Function, Lambda};
use crate::process::Spawner;
use crate::s3::S3;
use crate::{Account, REGION, client_environment};

/// Path of the endpoint that gives temporary keys to clients.
const CREDENTIALS: &str = "/v2/credentials";

/// The configuration of a local cloud.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Address on which the endpoint listens; port 0 selects a free port.
    pub listen: SocketAddr,
    /// Name of this machine in the endpoint, such as `localhost`; by default its address.
    pub host: Option<String>,
    /// Folder of all data: buckets in `s3`, logs in `logs`, and temporary files in `scratch` while it runs.
    pub folder: PathBuf,
    /// Buckets that exist from the start.
    pub buckets: Vec<String>,
    /// Lambda functions.
    pub functions: Vec<Function>,
    /// Maximum number of concurrent invocations of all functions. A new account has 10 to 50, the usual quota is 1,000.
    pub concurrency: usize,
    /// The task definition that ECS runs.
    pub task_definition: TaskDefinition,
}

/// A running local cloud. Dropping it kills every process that it started.
#[derive(Debug)]
pub struct LocalCloud {
    /// `http://host:port` of all services.
    pub endpoint: String,
    /// The Lambda functions.
    pub lambda: Lambda,
    /// The ECS tasks.
    pub ecs: Ecs,
    /// The buckets.
    pub s3: S3,
    /// Temporary keys of functions, tasks and clients.
    pub keys: Keys,
    spawner: Spawner,
    scratch: PathBuf,
    server: AbortHandle,
}

#[derive(Clone)]
struct Services {
    s3: S3,
    lambda: Lambda,
    ecs: Ecs,
    keys: Keys,
}

impl LocalCloud {
    /// Starts all services.
    ///
    /// # Errors
    /// When the address is in use, the folder is not writable, or a program does not exist.
    pub async fn start(setup: Setup) -> io::Result<LocalCloud> {
        let programs = setup.functions.iter().map(|function| &function.bootstrap);
        for program in programs.chain([&setup.task_definition.program]) {
            check_program(program)?;
        }
        let folder = std::path::absolute(&setup.folder)?;
        let (logs, scratch) = (folder.join("logs"), folder.join("scratch"));
        // A killed local cloud may have left the folder.
        let _absent = fs::remove_dir_all(&scratch);
        for part in [&logs, &scratch] {
            fs::create_dir_all(part)?;
        }
        let taken =
            |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", setup.listen));
        let listener = TcpListener::bind(setup.listen).await.map_err(taken)?;
        // The roles run on this machine, even if clients connect from other machines.
        let mut reached = listener.local_addr()?;
        if reached.ip().is_unspecified() {
            reached.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let endpoint = match &setup.host {
            Some(host) => format!("http://{host}:{}", reached.port()),
            None => format!("http://{reached}"),
        };
        let (keys, connections) = (Keys::default(), Connections::default());
        let account = Arc::new(Account {
            endpoint: endpoint.clone(),
            logs,
            scratch: scratch.clone(),
            keys: keys.clone(),
            connections: connections.clone(),
        });

        let spawner = Spawner::new()?;
        let s3 = S3::open(&folder.join("s3"), &setup.buckets, REGION, &keys)?;
        let lambda = Lambda::new(Arc::clone(&account), spawner.clone(), setup.functions, setup.concurrency);
        let ecs = Ecs::new(account, spawner.clone(), setup.task_definition);

        let services = Services { s3: s3.clone(), lambda: lambda.clone(), ecs: ecs.clone(), keys: keys.clone() };
        let routes = Router::new()
            .route("/2015-03-31/functions/{name}/invocations", post(invoke))
            // No bucket has a name of two letters.
            .route(CREDENTIALS, get(credentials))
            .fallback(other)
            // Every service limits the size of its own bodies.
            .layer(DefaultBodyLimit::disable())
            .with_state(services);
        let listener = Listed { listener, connections };
        let server = tokio::spawn(async move { axum::serve(listener, routes).await }).abort_handle();
        Ok(LocalCloud { endpoint, lambda, ecs, s3, keys, spawner, scratch, server })
    }

    /// Returns the environment variables of a client with temporary keys, which it fetches and renews, as a container does.
    pub fn renewing_environment(&self) -> BTreeMap<String, String> {
        let mut environment = client_environment(&self.endpoint);
        environment.retain(|name, _| !name.starts_with("AWS_ACCESS_KEY") && !name.starts_with("AWS_SECRET"));
        let place = format!("{}{CREDENTIALS}", self.endpoint);
        environment.insert("AWS_CONTAINER_CREDENTIALS_FULL_URI".to_string(), place);
        environment
    }

    /// Kills every process, waits until they have ended, and deletes `scratch`.
    pub async fn stop(self) {
        self.server.abort();
        self.spawner.stop().await;
    }
}

impl Drop for LocalCloud {
    fn drop(&mut self) {
        self.server.abort();
        self.spawner.kill_all();
        // Dying processes may still write files there. The next start deletes them.
        let _partly = fs::remove_dir_all(&self.scratch);
    }
}

fn check_program(program: &Path) -> io::Result<()> {
    if program.is_file() {
        return Ok(());
    }
    let message = format!("{} does not exist; build it with `cargo build --workspace --bins`", program.display());
    Err(io::Error::new(io::ErrorKind::NotFound, message))
}

async fn invoke(
    State(services): State<Services>,
    UrlPath(name): UrlPath<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    if let Err(refusal) = services.keys.judge(&headers, &uri) {
        return refused(refusal);
    }
    lambda::answer(&services.lambda, &name, uri.query(), &headers, body).await
}

async fn other(State(services): State<Services>, request: Request) -> Response<Body> {
    if ecs::is_ecs(request.headers()) {
        if let Err(refusal) = services.keys.judge(request.headers(), request.uri()) {
            return refused(refusal);
        }
        let (parts, body) = request.into_parts();
        return ecs::answer(&services.ecs, &parts.headers, body).await;
    }
    services.s3.answer(request).await
}

async fn credentials(State(services): State<Services>) -> Json<Value> {
    Json(services.keys.fetch())
}

/// Returns the response of Lambda and ECS to a session token that is not valid.
fn refused(refusal: Refusal) -> Response<Body> {
    let (kind, message) = match refusal {
        Refusal::Expired => ("ExpiredTokenException", "The security token included in the request is expired"),
        Refusal::Invalid => ("UnrecognizedClientException", "The security token included in the request is invalid."),
    };
    Response::builder()
        .status(StatusCode::FORBIDDEN)
        .header("Content-Type", "application/json")
        .header("x-amzn-ErrorType", kind)
        .body(Body::from(json!({"__type": kind, "message": message}).to_string()))
        .expect("constant headers are valid")
}
