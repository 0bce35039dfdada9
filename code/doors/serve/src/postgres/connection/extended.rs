//! The messages of the extended protocol: prepared statements and portals.

use std::collections::BTreeMap;
use std::sync::Arc;

use pgwire::messages::PgWireFrontendMessage as Message;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, CloseComplete, ParseComplete, PortalSuspended, TARGET_TYPE_BYTE_STATEMENT,
};

use super::{Connection, PORTALS_MAX, Portal, Prepared};
use crate::pg_catalog::{Route, Session};
use crate::planner;
use crate::postgres::casts;
use crate::postgres::cursor::{self, Column};
use crate::postgres::error::{PgError, Stop};
use crate::postgres::params;
use crate::postgres::rows;
use crate::postgres::statement::{Statement, statement};
use crate::scan;

/// Maximum number of prepared statements of one connection.
const STATEMENTS_MAX: usize = 2000;

impl Connection {
    /// Handles one message of the extended protocol.
    pub(super) async fn extended(&mut self, message: Message) -> Result<(), Stop> {
        match message {
            Message::Parse(parse) => self.parse(parse.name.unwrap_or_default(), &parse.query, parse.type_oids),
            Message::Bind(bind) => self.bind(bind).await,
            Message::Describe(describe) => {
                let name = describe.name.unwrap_or_default();
                if describe.target_type == TARGET_TYPE_BYTE_STATEMENT {
                    self.describe_statement(&name).await
                } else {
                    self.describe_portal(&name).await
                }
            }
            // No rows, or a negative number of rows, means all.
            Message::Execute(execute) => {
                let rows_max = usize::try_from(execute.max_rows).ok().filter(|rows| *rows > 0);
                self.execute(&execute.name.unwrap_or_default(), rows_max.unwrap_or(usize::MAX)).await
            }
            Message::Close(close) => {
                let name = close.name.unwrap_or_default();
                if close.target_type == TARGET_TYPE_BYTE_STATEMENT {
                    self.statements.remove(&name);
                } else if self.portals.remove(&name).is_none() {
                    self.cursors.remove(&name);
                }
                Ok(self.wire.put(&CloseComplete::new())?)
            }
            _ => Err(PgError::new("08P01", "the message is not expected at this time").into()),
        }
    }

    fn parse(&mut self, name: String, sql: &str, types: Vec<u32>) -> Result<(), Stop> {
        let statements = scan::statements(sql);
        let sql = match statements.as_slice() {
            [] => "",
            [one] => one,
            _ => return Err(PgError::syntax("cannot insert multiple commands into a prepared statement").into()),
        };
        if self.statements.len() >= STATEMENTS_MAX && !self.statements.contains_key(&name) {
            return Err(too_many("prepared statements", STATEMENTS_MAX).into());
        }
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(PgError::new("42P05", format!("prepared statement \"{name}\" already exists")).into());
        }
        let kind = statement(sql)?;
        let mut oids = types;
        let count = params::count(sql)?;
        oids.resize(count.max(oids.len()), 0);
        casts::set_types(sql, &mut oids);
        let prepared = Prepared { kind, oids, announced: None };
        self.statements.insert(name, Arc::new(prepared));
        Ok(self.wire.put(&ParseComplete::new())?)
    }

    fn prepared(&self, name: &str) -> Result<Arc<Prepared>, PgError> {
        self.statements.get(name).cloned().ok_or_else(|| missing_statement(name))
    }

    /// Returns the statement with the types of all its parameters, and its columns if they can be known before it runs.
    async fn planned(&mut self, name: &str) -> Result<(Arc<Prepared>, Result<(), PgError>), PgError> {
        let prepared = self.prepared(name)?;
        if prepared.announced.is_some() {
            return Ok((prepared, Ok(())));
        }
        let sql = match &prepared.kind {
            Statement::Query(sql) => params::typed(sql, &prepared.oids),
            _ => String::new(),
        };
        let (mut types, mut announced, mut outcome) = (BTreeMap::new(), None, Ok(()));
        if !sql.is_empty() {
            match self.plan(&sql).await {
                Ok(planned) => {
                    announced = Some(Some(planned.schema));
                    types = planned.params;
                }
                Err(error) => outcome = Err(error),
            }
        } else {
            announced = Some(None);
        }
        let oids = (0..prepared.oids.len()).map(|index| params::oid(&prepared.oids, index, &types)).collect();
        let planned = Arc::new(Prepared { kind: prepared.kind.clone(), oids, announced });
        if outcome.is_ok() {
            self.statements.insert(name.to_string(), Arc::clone(&planned));
        }
        Ok((planned, outcome))
    }

    async fn plan(&mut self, sql: &str) -> Result<planner::Planned, PgError> {
        let desk = &self.shared.desk;
        if planner::parsed(sql).is_ok_and(|statement| planner::is_explain(&statement)) {
            return Ok(planner::explained());
        }
        match self.shared.catalog.route(sql)? {
            Route::Catalog => {
                let session = Session { user: self.user.clone(), settings: self.settings.all().clone() };
                self.shared.catalog.plan(sql, &session).await
            }
            Route::Engine => match planner::plan(&desk.names, sql, &self.settings.options).await {
                Ok(planned) => Ok(planned),
                Err(error) => Err(PgError::of_query(error, &desk.names, sql).await),
            },
        }
    }

    async fn bind(&mut self, bind: Bind) -> Result<(), Stop> {
        let statement = bind.statement_name.as_deref().unwrap_or_default();
        let mut prepared = self.prepared(statement)?;
        if prepared.oids.iter().any(|oid| [0, 705].contains(oid)) {
            // Without a plan, all parameters whose types are not given are texts; running the query reports the error.
            prepared = self.planned(statement).await?.0;
        }
        let name = bind.portal_name.clone().unwrap_or_default();
        if self.portals.len() >= PORTALS_MAX && !self.portals.contains_key(&name) {
            return Err(too_many("portals", PORTALS_MAX).into());
        }
        let sql = match &prepared.kind {
            Statement::Query(sql) => sql.as_str(),
            _ => "",
        };
        let bound =
            params::bound(sql, &prepared.oids, &bind).map_err(|error| PgError::new("22P02", error.to_string()))?;
        let announced = prepared.announced.clone().flatten();
        let portal = Portal {
            kind: prepared.kind.clone(),
            bound,
            formats: bind.result_column_format_codes,
            // The catalog decides on its types with the values.
            announced,
            cursor: None,
        };
        self.portals.insert(name, portal);
        Ok(self.wire.put(&BindComplete::new())?)
    }

    async fn describe_statement(&mut self, name: &str) -> Result<(), Stop> {
        let (prepared, outcome) = self.planned(name).await?;
        outcome?;
        let oids = prepared.oids.clone();
        let columns = match &prepared.kind {
            Statement::Query(sql) => {
                let is_catalog = self.shared.catalog.route(sql)? == Route::Catalog;
                let schema = prepared.announced.clone().flatten();
                schema.map(|schema| cursor::columns(&schema, is_catalog)).transpose()?
            }
            other => self.columns_of(other)?,
        };
        self.wire.put(&ParameterDescription::new(oids))?;
        Ok(self.put_columns(columns.as_deref(), &[])?)
    }

    /// Returns the columns of a statement that is not a query.
    fn columns_of(&self, kind: &Statement) -> Result<Option<Vec<Column>>, PgError> {
        Ok(match kind {
            Statement::Show(_) | Statement::ShowAll => Some(self.shown(kind)?.columns),
            Statement::Fetch { name, is_move: false, .. } => match self.cursors.get(name) {
                Some(cursor) => Some(cursor.columns.clone()),
                None => return Err(PgError::new("34000", format!("cursor \"{name}\" does not exist"))),
            },
            _ => None,
        })
    }

    fn put_columns(&mut self, columns: Option<&[Column]>, formats: &[i16]) -> Result<(), PgError> {
        match columns {
            Some(columns) => rows::put_description(&mut self.wire, columns, formats),
            None => self.wire.put(&NoData::new()),
        }
    }

    /// Runs the query of a portal if it has not run. Then its columns are known exactly.
    async fn run_portal(&mut self, name: &str) -> Result<(), Stop> {
        let portal = self.portals.get(name).ok_or_else(|| missing_portal(name))?;
        if portal.cursor.is_some() || !matches!(portal.kind, Statement::Query(_)) {
            return Ok(());
        }
        let (bound, announced) = (portal.bound.clone(), portal.announced.clone());
        let mut cursor = self.start(bound, announced).await?;
        self.notices(&mut cursor)?;
        let portal = self.portals.get_mut(name).ok_or_else(|| missing_portal(name))?;
        rows::check_formats(&portal.formats, cursor.columns.len())?;
        portal.cursor = Some(cursor);
        Ok(())
    }

    async fn describe_portal(&mut self, name: &str) -> Result<(), Stop> {
        // A cursor that was declared is a portal too.
        if let Some(cursor) = self.cursors.get(name).filter(|_| !self.portals.contains_key(name)) {
            let columns = cursor.columns.clone();
            return Ok(self.put_columns(Some(&columns), &[])?);
        }
        let portal = self.portals.get(name).ok_or_else(|| missing_portal(name))?;
        self.check_transaction(&portal.kind)?;
        self.run_portal(name).await?;
        let portal = self.portals.get(name).ok_or_else(|| missing_portal(name))?;
        let columns = match &portal.cursor {
            Some(cursor) => Some(cursor.columns.clone()),
            None => self.columns_of(&portal.kind)?,
        };
        let formats = portal.formats.clone();
        Ok(self.put_columns(columns.as_deref(), &formats)?)
    }

    async fn execute(&mut self, name: &str, rows_max: usize) -> Result<(), Stop> {
        let portal = self.portals.get(name).ok_or_else(|| missing_portal(name))?;
        let (kind, formats) = (portal.kind.clone(), portal.formats.clone());
        let token = self.registered.token();
        self.check_transaction(&kind)?;
        match kind {
            Statement::Query(_) => {
                self.run_portal(name).await?;
                let portal = self.portals.get_mut(name).ok_or_else(|| missing_portal(name))?;
                let Some(cursor) = &mut portal.cursor else { return Err(missing_portal(name).into()) };
                let (count, is_done) =
                    rows::send(&mut self.wire, cursor, &formats, self.settings.zone, rows_max, &token).await?;
                if is_done {
                    self.complete(&format!("SELECT {count}"))?;
                } else {
                    self.wire.put(&PortalSuspended::new())?;
                }
            }
            Statement::Fetch { name, rows_max, is_move } => {
                let mut cursor = self.take_cursor(&name)?;
                let outcome = self.fetch(&mut cursor, &formats, rows_max, is_move).await;
                self.cursors.insert(name, cursor);
                self.complete(&format!("{} {}", if is_move { "MOVE" } else { "FETCH" }, outcome?))?;
            }
            Statement::Show(_) | Statement::ShowAll => {
                let mut cursor = self.shown(&kind)?;
                rows::send(&mut self.wire, &mut cursor, &formats, self.settings.zone, usize::MAX, &token).await?;
                self.complete("SHOW")?;
            }
            other => self.execute_other(other).await?,
        }
        Ok(())
    }
}

pub(super) fn missing_statement(name: &str) -> PgError {
    PgError::new("26000", format!("prepared statement \"{name}\" does not exist"))
}

fn missing_portal(name: &str) -> PgError {
    PgError::new("34000", format!("portal \"{name}\" does not exist"))
}

pub(super) fn too_many(things: &str, most: usize) -> PgError {
    PgError::new("53400", format!("the connection has {most} {things}, which is the maximum; close some"))
}
