//! Functions of PostgreSQL about its catalog.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use arrow::array::Array;
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::scalar::ScalarValue;

use crate::desk::{CATALOG, SCHEMA};
use crate::names::NamedTable;
use crate::pg_catalog::tables::{OWNER_OID, PG_CATALOG_OID, SCHEMA_OID};
use crate::pg_catalog::{PG_CATALOG, Session, texts};
use crate::postgres::session::VERSION;
use crate::postgres::types;

/// OIDs of tables of the catalog, which other tables refer to.
const SYSTEM: [(&str, u32); 14] = [
    ("pg_class", 1259),
    ("pg_attribute", 1249),
    ("pg_type", 1247),
    ("pg_proc", 1255),
    ("pg_namespace", 2615),
    ("pg_constraint", 2606),
    ("pg_database", 1262),
    ("pg_index", 2610),
    ("pg_trigger", 2620),
    ("pg_rewrite", 2618),
    ("pg_description", 2609),
    ("pg_extension", 3079),
    ("pg_policy", 3256),
    ("pg_tablespace", 1213),
];

type Body = Arc<dyn Fn(&[ScalarValue]) -> ScalarValue + Send + Sync>;

/// A function of any number of values of any types.
#[derive(Clone)]
struct Simple {
    name: &'static str,
    signature: Signature,
    returns: DataType,
    body: Body,
}

impl fmt::Debug for Simple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Simple {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.body, &other.body)
    }
}

impl Eq for Simple {}

impl Hash for Simple {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Simple {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let at = |row: usize| -> Result<Vec<ScalarValue>> {
            let value = |arg: &ColumnarValue| match arg {
                ColumnarValue::Scalar(value) => Ok(value.clone()),
                ColumnarValue::Array(array) => ScalarValue::try_from_array(array, row),
            };
            args.args.iter().map(value).collect()
        };
        if is_scalar {
            return Ok(ColumnarValue::Scalar((self.body)(&at(0)?)));
        }
        if args.number_rows == 0 {
            return Ok(ColumnarValue::Array(arrow::array::new_empty_array(&self.returns)));
        }
        let values: Result<Vec<ScalarValue>> = (0..args.number_rows).map(|row| Ok((self.body)(&at(row)?))).collect();
        Ok(ColumnarValue::Array(ScalarValue::iter_to_array(values?)?))
    }
}

pub(super) fn text_of(value: Option<&ScalarValue>) -> Option<String> {
    value?.try_as_str().flatten().map(str::to_string)
}

fn number_of(value: Option<&ScalarValue>) -> Option<i64> {
    let value = value?;
    if let Some(text) = value.try_as_str() {
        return text?.trim().parse().ok();
    }
    match value.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(number)) => number,
        _ => None,
    }
}

fn oid_of(value: Option<&ScalarValue>) -> Option<u32> {
    number_of(value).and_then(|number| u32::try_from(number).ok())
}

pub(super) fn text(value: Option<String>) -> ScalarValue {
    ScalarValue::Utf8(value)
}

fn oid(value: Option<u32>) -> ScalarValue {
    ScalarValue::UInt32(value)
}

/// Returns the last part of a name with a schema, without quotes.
fn bare(name: &str) -> String {
    let last = name.rsplit_once('.').map_or(name, |(_, last)| last).trim();
    match last.strip_prefix('"').and_then(|last| last.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => last.to_lowercase(),
    }
}

pub(super) fn quoted(name: &str) -> String {
    let is_plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name
            .chars()
            .all(|character| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_');
    if is_plain { name.to_string() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Makes all functions.
pub(super) fn all(named: &[NamedTable], session: &Session) -> Vec<ScalarUDF> {
    let mut functions = Functions::default();
    constants(&mut functions, session);
    about_names(&mut functions, named);
    about_settings(&mut functions, session);
    texts::add(&mut functions);
    functions.0
}

/// The functions, one after the other.
#[derive(Default)]
pub(super) struct Functions(Vec<ScalarUDF>);

impl Functions {
    /// Adds a function of any values that returns `returns`.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        returns: DataType,
        body: impl Fn(&[ScalarValue]) -> ScalarValue + Send + Sync + 'static,
    ) {
        let signature = Signature::one_of(vec![TypeSignature::VariadicAny, TypeSignature::Nullary], Volatility::Stable);
        self.0.push(ScalarUDF::new_from_impl(Simple { name, signature, returns, body: Arc::new(body) }));
    }

    fn constant(&mut self, names: &[&'static str], value: &ScalarValue) {
        for name in names {
            let (returns, value) = (value.data_type(), value.clone());
            self.add(name, returns, move |_| value.clone());
        }
    }
}

/// Functions that return null.
const NULLS: [&str; 21] = [
    "pg_get_expr",
    "pg_get_constraintdef",
    "pg_get_indexdef",
    "pg_get_viewdef",
    "pg_get_ruledef",
    "pg_get_triggerdef",
    "pg_get_functiondef",
    "pg_get_function_arguments",
    "pg_get_function_result",
    "pg_get_function_identity_arguments",
    "pg_get_partkeydef",
    "pg_get_serial_sequence",
    "pg_get_statisticsobjdef_columns",
    "obj_description",
    "col_description",
    "shobj_description",
    "inet_server_addr",
    "inet_client_addr",
    "pg_tablespace_location",
    "pg_advisory_unlock_all",
    "pg_notify",
];

fn constants(functions: &mut Functions, session: &Session) {
    let text = |value: &str| ScalarValue::Utf8(Some(value.to_string()));
    let user = text(&session.user);
    functions.constant(&["version"], &text(&format!("PostgreSQL {VERSION} (Buzz {})", env!("CARGO_PKG_VERSION"))));
    functions.constant(&["current_database", "current_catalog"], &text(CATALOG));
    functions.constant(&["current_schema"], &text(SCHEMA));
    functions.constant(&["current_user", "session_user", "user", "current_role"], &user);
    functions.constant(&["pg_encoding_to_char"], &text("UTF8"));
    let yes = [
        "pg_table_is_visible",
        "pg_type_is_visible",
        "pg_function_is_visible",
        "pg_operator_is_visible",
        "pg_opclass_is_visible",
        "pg_collation_is_visible",
        "has_table_privilege",
        "has_any_column_privilege",
        "has_column_privilege",
        "has_schema_privilege",
        "has_database_privilege",
        "has_function_privilege",
        "has_sequence_privilege",
        "has_type_privilege",
        "has_tablespace_privilege",
        "pg_has_role",
    ];
    functions.constant(&yes, &ScalarValue::Boolean(Some(true)));
    let no = [
        "pg_is_in_recovery",
        "pg_is_other_temp_schema",
        "pg_relation_is_publishable",
        "row_security_active",
        "pg_advisory_unlock",
    ];
    functions.constant(&no, &ScalarValue::Boolean(Some(false)));
    functions.constant(&NULLS, &ScalarValue::Utf8(None));
    let zeros = ["pg_backend_pid", "pg_my_temp_schema", "inet_server_port", "inet_client_port", "txid_current"];
    functions.constant(&zeros, &ScalarValue::Int32(Some(0)));
    functions.constant(
        &[
            "pg_relation_size",
            "pg_total_relation_size",
            "pg_table_size",
            "pg_indexes_size",
            "pg_database_size",
            "pg_stat_get_numscans",
        ],
        &ScalarValue::Int64(Some(0)),
    );
    let start = ScalarValue::TimestampMicrosecond(Some(started_micros()), Some("UTC".into()));
    functions.constant(&["pg_postmaster_start_time"], &start);
    let texts = |names: &[&str]| {
        let names: Vec<ScalarValue> = names.iter().map(|name| ScalarValue::Utf8(Some((*name).to_string()))).collect();
        ScalarValue::List(ScalarValue::new_list_nullable(&names, &DataType::Utf8))
    };
    let (with, without) = (texts(&[PG_CATALOG, SCHEMA]), texts(&[SCHEMA]));
    functions.add("current_schemas", with.data_type(), move |args| match args.first() {
        Some(ScalarValue::Boolean(Some(true))) => with.clone(),
        _ => without.clone(),
    });
}

/// Returns the time of the first question about the server, in microseconds since 1970.
fn started_micros() -> i64 {
    static STARTED_MS: LazyLock<u64> = LazyLock::new(buzz_protocol::now_ms);
    i64::try_from(*STARTED_MS).map_or(i64::MAX, |milliseconds| milliseconds.saturating_mul(1000))
}

fn about_names(functions: &mut Functions, named: &[NamedTable]) {
    let tables: Vec<(u32, String)> = named.iter().map(|table| (table.oid, table.name.clone())).collect();
    let tables = Arc::new(tables);
    let known = Arc::clone(&tables);
    let class = move |name: &str| -> Option<u32> {
        let name = bare(name);
        let exact = known.iter().find(|(_, table)| *table == name);
        let found = exact.or_else(|| known.iter().find(|(_, table)| table.eq_ignore_ascii_case(&name)));
        found.map(|(oid, _)| *oid).or_else(|| SYSTEM.iter().find(|(system, _)| *system == name).map(|(_, oid)| *oid))
    };
    let class_in = move |args: &[ScalarValue]| {
        let shown = text_of(args.first());
        // A text of digits is an OID.
        let number = shown.as_deref().and_then(|shown| shown.parse().ok());
        oid(number.or_else(|| shown.as_deref().and_then(&class)))
    };
    functions.add("regclass_in", DataType::UInt32, class_in.clone());
    functions.add("to_regclass", DataType::UInt32, class_in);
    functions.add("regclass_out", DataType::Utf8, move |args| {
        let Some(oid) = oid_of(args.first()) else { return text(None) };
        let table = tables.iter().find(|(known, _)| *known == oid).map(|(_, name)| quoted(name));
        let system = || SYSTEM.iter().find(|(_, known)| *known == oid).map(|(name, _)| (*name).to_string());
        text(Some(table.or_else(system).unwrap_or_else(|| oid.to_string())))
    });
    let type_in = |args: &[ScalarValue]| {
        let shown = text_of(args.first());
        let number = shown.as_deref().and_then(|shown| shown.parse().ok());
        oid(number.or_else(|| shown.as_deref().and_then(types::oid_of)))
    };
    functions.add("regtype_in", DataType::UInt32, type_in);
    functions.add("to_regtype", DataType::UInt32, type_in);
    functions.add("regtype_out", DataType::Utf8, |args| text(formatted(oid_of(args.first()), None)));
    functions.add("format_type", DataType::Utf8, |args| text(formatted(oid_of(args.first()), number_of(args.get(1)))));
    functions.add("regnamespace_in", DataType::UInt32, |args| {
        oid(text_of(args.first()).and_then(|name| match bare(&name).as_str() {
            SCHEMA => Some(SCHEMA_OID),
            PG_CATALOG => Some(PG_CATALOG_OID),
            _ => None,
        }))
    });
    functions.add("regnamespace_out", DataType::Utf8, |args| {
        text(oid_of(args.first()).map(|oid| match oid {
            SCHEMA_OID => SCHEMA.to_string(),
            PG_CATALOG_OID => PG_CATALOG.to_string(),
            other => other.to_string(),
        }))
    });
    functions.add("regother_in", DataType::UInt32, |args| oid(text_of(args.first()).map(|_| 0)));
    functions.add("regother_out", DataType::Utf8, |args| text(oid_of(args.first()).map(|oid| oid.to_string())));
    functions.add("quote_ident", DataType::Utf8, |args| text(text_of(args.first()).map(|name| quoted(&name))));
    functions.add("array_to_string", DataType::Utf8, |args| {
        let separator = text_of(args.get(1)).unwrap_or_default();
        text(match args.first() {
            Some(ScalarValue::List(list)) if !list.is_null(0) => {
                let parts = list.value(0);
                let parts = (0..parts.len()).filter_map(|index| ScalarValue::try_from_array(&parts, index).ok());
                let parts = parts.filter(|part| !part.is_null()).map(|part| part.to_string());
                Some(parts.collect::<Vec<_>>().join(&separator))
            }
            // Lists of privileges are nulls of type text.
            other => text_of(other),
        })
    });
    functions.add("array_lower", DataType::Int64, |args| match args.first() {
        Some(ScalarValue::List(list)) if list.is_valid(0) && list.value_length(0) > 0 => ScalarValue::Int64(Some(1)),
        _ => ScalarValue::Int64(None),
    });
    // `generate_series` takes numbers of 64 bits only.
    functions.add("array_upper", DataType::Int64, |args| {
        let length = match (args.first(), number_of(args.get(1))) {
            (Some(ScalarValue::List(list)), Some(1)) if list.is_valid(0) => Some(i64::from(list.value_length(0))),
            _ => None,
        };
        ScalarValue::Int64(length.filter(|length| *length > 0))
    });
    functions.add("pg_size_pretty", DataType::Utf8, |args| {
        text(number_of(args.first()).map(|bytes| format!("{bytes} bytes")))
    });
}

fn formatted(oid: Option<u32>, modifier: Option<i64>) -> Option<String> {
    let modifier = modifier.and_then(|modifier| i32::try_from(modifier).ok()).unwrap_or(-1);
    let other = |oid: u32| match oid {
        0 => "-",
        18 => "\"char\"",
        19 => "name",
        1042 => "character",
        1043 => "character varying",
        2205 => "regclass",
        2278 => "void",
        2950 => "uuid",
        3802 => "jsonb",
        _ => "???",
    };
    oid.map(|oid| types::format_type(oid, modifier).unwrap_or_else(|| other(oid).to_string()))
}

fn about_settings(functions: &mut Functions, session: &Session) {
    let settings = Arc::new(session.settings.clone());
    functions.add("current_setting", DataType::Utf8, move |args| {
        text(text_of(args.first()).and_then(|name| settings.get(&name.to_lowercase()).cloned()))
    });
    functions.add("set_config", DataType::Utf8, |args| text(text_of(args.get(1))));
    let user = session.user.clone();
    functions.add("pg_get_userbyid", DataType::Utf8, move |args| {
        text(oid_of(args.first()).map(
            |oid| {
                if oid == OWNER_OID { user.clone() } else { format!("unknown (OID={oid})") }
            },
        ))
    });
}
