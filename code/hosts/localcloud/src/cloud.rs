//! Serves all services on one endpoint.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Request, State};
use axum::http::{HeaderMap, Response, Uri};
use axum::routing::post;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::ecs::{self, Ecs, TaskDefinition};
use crate::lambda::{self, Function, Lambda};
use crate::process::Spawner;
use crate::s3::S3;
use crate::{ACCESS_KEY, Account, REGION, SECRET_KEY};

/// The configuration of a local cloud.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Address on which the endpoint listens; port 0 selects a free port.
    pub listen: SocketAddr,
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
    spawner: Spawner,
    scratch: PathBuf,
    server: AbortHandle,
}

#[derive(Clone)]
struct Services {
    s3: S3,
    lambda: Lambda,
    ecs: Ecs,
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
        let endpoint = format!("http://{reached}");
        let account = Arc::new(Account { endpoint: endpoint.clone(), logs, scratch: scratch.clone() });

        let spawner = Spawner::new()?;
        let s3 = S3::open(&folder.join("s3"), &setup.buckets, REGION, (ACCESS_KEY, SECRET_KEY))?;
        let lambda = Lambda::new(Arc::clone(&account), spawner.clone(), setup.functions, setup.concurrency);
        let ecs = Ecs::new(account, spawner.clone(), setup.task_definition);

        let services = Services { s3: s3.clone(), lambda: lambda.clone(), ecs: ecs.clone() };
        let routes = Router::new()
            .route("/2015-03-31/functions/{name}/invocations", post(invoke))
            .fallback(other)
            // Every service limits the size of its own bodies.
            .layer(DefaultBodyLimit::disable())
            .with_state(services);
        let listener = listener.tap_io(|connection| {
            // Without it small responses are delayed by 40 ms.
            let _still_works = connection.set_nodelay(true);
        });
        let server = tokio::spawn(async move { axum::serve(listener, routes).await }).abort_handle();
        Ok(LocalCloud { endpoint, lambda, ecs, s3, spawner, scratch, server })
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
    lambda::answer(&services.lambda, &name, uri.query(), &headers, body).await
}

async fn other(State(services): State<Services>, request: Request) -> Response<Body> {
    if ecs::is_ecs(request.headers()) {
        let (parts, body) = request.into_parts();
        return ecs::answer(&services.ecs, &parts.headers, body).await;
    }
    services.s3.answer(request).await
}
