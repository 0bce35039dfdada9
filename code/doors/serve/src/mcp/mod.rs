//! The MCP door: tools that list and describe tables, and estimate and run queries.
//!
//! The Model Context Protocol carries the calls: over HTTP at [`PATH`], where each request stands for itself, or over standard
//! input and output (`stdio`). `tools` has the tools. The rows of an answer are bounded: `limited` puts the bound into the
//! statement, so that the query stops early, and `rows` cuts what is left.

mod limited;
mod rows;
mod stdio;
mod tools;

use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use http::request::Parts;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Extensions, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, RoleServer, ServerHandler};

pub use self::stdio::{McpSettings, serve_stdio};
use crate::desk::Desk;
use crate::http::guard::User;
use crate::listen::Shared;

/// The path of the HTTP door.
pub(crate) const PATH: &str = "/mcp";

/// Name of the user of standard input and output.
const LOCAL_USER: &str = "mcp";

const INSTRUCTIONS: &str = "\
Buzz answers SQL (SELECT) over tables of Parquet, Delta Lake, CSV and JSON files. It only reads. Find tables with list_tables \
and their columns with describe_table. A query takes seconds to minutes and reads whole columns: call estimate before a query \
over a large table, select few columns, and filter by partition columns. Answers are cut: aggregate in SQL. Names with upper \
case letters need double quotes.";

/// The service of one client.
#[derive(Debug, Clone)]
pub(crate) struct McpDoor {
    desk: Arc<Desk>,
}

/// Makes the service of the HTTP door. Requests reach it after their host, origin and key were checked.
pub(crate) fn service(shared: &Shared) -> StreamableHttpService<McpDoor, NeverSessionManager> {
    let desk = Arc::clone(&shared.desk);
    // Without sessions, nothing is kept for a client that does not come back.
    let config = StreamableHttpServerConfig::default().disable_allowed_hosts().with_legacy_session_mode(false);
    StreamableHttpService::new(move || Ok(McpDoor { desk: Arc::clone(&desk) }), Arc::default(), config)
}

/// Returns the user of a request.
fn user(extensions: &Extensions) -> Result<String> {
    let Some(parts) = extensions.get::<Parts>() else { return Ok(LOCAL_USER.to_string()) };
    let user = parts.extensions.get::<User>().map(|User(user)| user.clone());
    user.ok_or_else(|| QueryError::internal("a request has no user"))
}

impl ServerHandler for McpDoor {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("buzz", env!("CARGO_PKG_VERSION")))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::all()))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        tools::all().into_iter().find(|tool| tool.name == name)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        if self.get_tool(&request.name).is_none() {
            let names: Vec<String> = tools::all().iter().map(|tool| format!("`{}`", tool.name)).collect();
            let message = format!("tool `{}` does not exist; available: {}", request.name, names.join(", "));
            return Err(ErrorData::invalid_params(message, None));
        }
        let work =
            async { tools::call(&self.desk, user(&context.extensions)?, &request.name, request.arguments).await };
        let outcome = tokio::select! {
            biased;
            () = context.ct.cancelled() => Err(QueryError::cancelled("the call was cancelled")),
            () = self.desk.stopping.cancelled() => Err(QueryError::unavailable("the server is stopping")),
            outcome = work => outcome,
        };
        // An error of a tool reaches the one who wrote the query; one of the protocol may not.
        let result = outcome.unwrap_or_else(|error| CallToolResult::error(vec![ContentBlock::text(error.to_string())]));
        Ok(result.into())
    }
}
