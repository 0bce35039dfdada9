//! The tables of `pg_catalog`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float32Array, Int16Array, Int32Array, ListArray, RecordBatch, StringArray, UInt32Array,
};
use arrow::datatypes::{Field, Int16Type, Schema};
use buzz_protocol::QueryError;

use crate::desk::{CATALOG, SCHEMA};
use crate::names::NamedTable;
use crate::pg_catalog::{INFORMATION_SCHEMA, PG_CATALOG, Session, receivers};
use crate::planner::plain_schema;
use crate::postgres::error::PgError;
use crate::postgres::types::{self, PgType};

/// OIDs of schemas, of the owner of everything, and of the database.
pub(super) const PG_CATALOG_OID: u32 = 11;
pub(super) const SCHEMA_OID: u32 = 2200;
const INFORMATION_SCHEMA_OID: u32 = 13_000;
pub(super) const OWNER_OID: u32 = 10;
const DATABASE_OID: u32 = 5;

/// A value of a catalog table.
#[derive(Debug, Clone)]
pub(super) enum V {
    Null,
    Oid(u32),
    Text(String),
    Int(i32),
    Bool(bool),
    Float(f32),
}

/// Makes a text.
pub(super) fn t(text: &str) -> V {
    V::Text(text.to_string())
}

/// Columns of the tables that have rows. Types: o OID, t text, i and s numbers of 32 and 16 bits, f float, b boolean, a array
/// of numbers of 16 bits.
const NAMESPACE: &str = "oid:o nspname:t nspowner:o nspacl:t";
const CLASS: &str = "oid:o relname:t relnamespace:o reltype:o reloftype:o relowner:o relam:o relfilenode:o \
    reltablespace:o relpages:i reltuples:f relallvisible:i reltoastrelid:o relhasindex:b relisshared:b \
    relpersistence:t relkind:t relnatts:s relchecks:s relhasrules:b relhastriggers:b relhassubclass:b \
    relrowsecurity:b relforcerowsecurity:b relispopulated:b relreplident:t relispartition:b relrewrite:o \
    relfrozenxid:o relminmxid:o relacl:t reloptions:t relpartbound:t";
const ATTRIBUTE: &str = "attrelid:o attname:t atttypid:o attstattarget:i attlen:s attnum:s attndims:i attcacheoff:i \
    atttypmod:i attbyval:b attalign:t attstorage:t attcompression:t attnotnull:b atthasdef:b atthasmissing:b \
    attidentity:t attgenerated:t attisdropped:b attislocal:b attinhcount:i attcollation:o attacl:t attoptions:t \
    attfdwoptions:t attmissingval:t";
const TYPE: &str = "oid:o typname:t typnamespace:o typowner:o typlen:s typbyval:b typtype:t typcategory:t \
    typispreferred:b typisdefined:b typdelim:t typrelid:o typsubscript:t typelem:o typarray:o typinput:t typoutput:t \
    typreceive:t typsend:t typmodin:t typmodout:t typanalyze:t typalign:t typstorage:t typnotnull:b typbasetype:o \
    typtypmod:i typndims:i typcollation:o typdefaultbin:t typdefault:t typacl:t";
const DATABASE: &str = "oid:o datname:t datdba:o encoding:i datlocprovider:t datistemplate:b datallowconn:b \
    datconnlimit:i datfrozenxid:o datminmxid:o dattablespace:o datcollate:t datctype:t daticulocale:t \
    datcollversion:t datacl:t";
const ROLES: &str = "oid:o rolname:t rolsuper:b rolinherit:b rolcreaterole:b rolcreatedb:b rolcanlogin:b \
    rolreplication:b rolconnlimit:i rolpassword:t rolvaliduntil:t rolbypassrls:b rolconfig:t";
const USER: &str =
    "usename:t usesysid:o usecreatedb:b usesuper:b userepl:b usebypassrls:b passwd:t valuntil:t useconfig:t";
const AM: &str = "oid:o amname:t amhandler:t amtype:t";
const TABLESPACE: &str = "oid:o spcname:t spcowner:o spcacl:t spcoptions:t";
const SETTINGS: &str = "name:t setting:t unit:t category:t short_desc:t extra_desc:t context:t vartype:t source:t \
    min_val:t max_val:t enumvals:t boot_val:t reset_val:t sourcefile:t sourceline:i pending_restart:b";
const TABLES: &str =
    "schemaname:t tablename:t tableowner:t tablespace:t hasindexes:b hasrules:b hastriggers:b rowsecurity:b";
const DESCRIBED: &str = "objoid:o classoid:o objsubid:i description:t";

/// Tables that never have rows.
const EMPTY: [(&str, &str); 49] = [
    // Every column has the default collation.
    (
        "pg_collation",
        "oid:o collname:t collnamespace:o collowner:o collprovider:t collisdeterministic:b collencoding:i \
         collcollate:t collctype:t colliculocale:t collversion:t",
    ),
    ("pg_attrdef", "oid:o adrelid:o adnum:s adbin:t"),
    ("pg_description", DESCRIBED),
    ("pg_shdescription", "objoid:o classoid:o description:t"),
    (
        "pg_index",
        "indexrelid:o indrelid:o indnatts:s indnkeyatts:s indisunique:b indnullsnotdistinct:b indisprimary:b \
         indisexclusion:b indimmediate:b indisclustered:b indisvalid:b indcheckxmin:b indisready:b indislive:b \
         indisreplident:b indkey:a indcollation:a indclass:a indoption:a indexprs:t indpred:t",
    ),
    (
        "pg_constraint",
        "oid:o conname:t connamespace:o contype:t condeferrable:b condeferred:b convalidated:b conrelid:o contypid:o \
         conindid:o conparentid:o confrelid:o confupdtype:t confdeltype:t confmatchtype:t conislocal:b coninhcount:i \
         connoinherit:b conkey:a confkey:a conpfeqop:a conppeqop:a conffeqop:a conexclop:a conbin:t",
    ),
    ("pg_inherits", "inhrelid:o inhparent:o inhseqno:i inhdetachpending:b"),
    (
        "pg_trigger",
        "oid:o tgrelid:o tgparentid:o tgname:t tgfoid:o tgtype:s tgenabled:t tgisinternal:b tgconstrrelid:o \
         tgconstrindid:o tgconstraint:o tgdeferrable:b tginitdeferred:b tgnargs:s tgattr:a tgargs:t tgqual:t \
         tgoldtable:t tgnewtable:t",
    ),
    ("pg_rewrite", "oid:o rulename:t ev_class:o ev_type:t ev_enabled:t is_instead:b ev_qual:t ev_action:t"),
    ("pg_policy", "oid:o polname:t polrelid:o polcmd:t polpermissive:b polroles:a polqual:t polwithcheck:t"),
    (
        "pg_statistic_ext",
        "oid:o stxrelid:o stxname:t stxnamespace:o stxowner:o stxstattarget:i stxkeys:a stxkind:t stxexprs:t",
    ),
    (
        "pg_publication",
        "oid:o pubname:t pubowner:o puballtables:b pubinsert:b pubupdate:b pubdelete:b pubtruncate:b pubviaroot:b",
    ),
    ("pg_publication_rel", "oid:o prpubid:o prrelid:o prqual:t prattrs:a"),
    ("pg_publication_namespace", "oid:o pnpubid:o pnnspid:o"),
    ("pg_publication_tables", "pubname:t schemaname:t tablename:t attnames:t rowfilter:t"),
    ("pg_subscription", "oid:o subdbid:o subname:t subowner:o subenabled:b"),
    (
        "pg_partitioned_table",
        "partrelid:o partstrat:t partnatts:s partdefid:o partattrs:a partclass:a partcollation:a partexprs:t",
    ),
    ("pg_foreign_table", "ftrelid:o ftserver:o ftoptions:t"),
    ("pg_foreign_server", "oid:o srvname:t srvowner:o srvfdw:o srvtype:t srvversion:t srvacl:t srvoptions:t"),
    ("pg_foreign_data_wrapper", "oid:o fdwname:t fdwowner:o fdwhandler:o fdwvalidator:o fdwacl:t fdwoptions:t"),
    ("pg_user_mapping", "oid:o umuser:o umserver:o umoptions:t"),
    ("pg_user_mappings", "umid:o srvid:o srvname:t umuser:o usename:t umoptions:t"),
    ("pg_sequence", "seqrelid:o seqtypid:o seqstart:i seqincrement:i seqmax:i seqmin:i seqcache:i seqcycle:b"),
    (
        "pg_sequences",
        "schemaname:t sequencename:t sequenceowner:t data_type:t start_value:i min_value:i max_value:i increment_by:i cycle:b cache_size:i last_value:i",
    ),
    (
        "pg_extension",
        "oid:o extname:t extowner:o extnamespace:o extrelocatable:b extversion:t extconfig:t extcondition:t",
    ),
    ("pg_event_trigger", "oid:o evtname:t evtevent:t evtowner:o evtfoid:o evtenabled:t evttags:t"),
    ("pg_depend", "classid:o objid:o objsubid:i refclassid:o refobjid:o refobjsubid:i deptype:t"),
    ("pg_shdepend", "dbid:o classid:o objid:o objsubid:i refclassid:o refobjid:o deptype:t"),
    ("pg_auth_members", "roleid:o member:o grantor:o admin_option:b"),
    ("pg_db_role_setting", "setdatabase:o setrole:o setconfig:t"),
    ("pg_default_acl", "oid:o defaclrole:o defaclnamespace:o defaclobjtype:t defaclacl:t"),
    ("pg_enum", "oid:o enumtypid:o enumsortorder:f enumlabel:t"),
    ("pg_range", "rngtypid:o rngsubtype:o rngmultitypid:o rngcollation:o rngsubopc:o rngcanonical:t rngsubdiff:t"),
    ("pg_cast", "oid:o castsource:o casttarget:o castfunc:o castcontext:t castmethod:t"),
    ("pg_operator", "oid:o oprname:t oprnamespace:o oprowner:o oprkind:t oprleft:o oprright:o oprresult:o oprcode:o"),
    (
        "pg_opclass",
        "oid:o opcmethod:o opcname:t opcnamespace:o opcowner:o opcfamily:o opcintype:o opcdefault:b opckeytype:o",
    ),
    ("pg_aggregate", "aggfnoid:o aggkind:t aggnumdirectargs:s"),
    (
        "pg_proc",
        "oid:o proname:t pronamespace:o proowner:o prolang:o procost:f prorows:f provariadic:o prokind:t prosecdef:b \
         proleakproof:b proisstrict:b proretset:b provolatile:t proparallel:t pronargs:s pronargdefaults:s \
         prorettype:o proargtypes:a proallargtypes:a proargmodes:t proargnames:t proargdefaults:t prosqlbody:t prosrc:t probin:t proconfig:t proacl:t",
    ),
    ("pg_language", "oid:o lanname:t lanowner:o lanispl:b lanpltrusted:b"),
    ("pg_views", "schemaname:t viewname:t viewowner:t definition:t"),
    ("pg_matviews", "schemaname:t matviewname:t matviewowner:t tablespace:t hasindexes:b ispopulated:b definition:t"),
    ("pg_indexes", "schemaname:t tablename:t indexname:t tablespace:t indexdef:t"),
    ("pg_stat_activity", "datid:o datname:t pid:i usename:t application_name:t state:t query:t backend_type:t"),
    ("pg_stat_user_tables", "relid:o schemaname:t relname:t seq_scan:i n_live_tup:i"),
    ("pg_locks", "locktype:t database:o relation:o pid:i mode:t granted:b"),
    ("pg_stat_ssl", "pid:i ssl:b version:t cipher:t bits:i client_dn:t client_serial:t issuer_dn:t"),
    ("pg_timezone_names", "name:t abbrev:t utc_offset:t is_dst:b"),
    ("pg_timezone_abbrevs", "abbrev:t utc_offset:t is_dst:b"),
    ("pg_prepared_xacts", "transaction:o gid:t owner:t database:t"),
];

/// Names of the tables that have rows.
const FILLED: [&str; 12] = [
    "pg_namespace",
    "pg_class",
    "pg_attribute",
    "pg_type",
    "pg_database",
    "pg_roles",
    "pg_user",
    "pg_am",
    "pg_tablespace",
    "pg_settings",
    "pg_tables",
    receivers::TABLE,
];

/// Checks if `name` is a table of the catalog.
pub(super) fn is_known(name: &str) -> bool {
    FILLED.contains(&name) || is_empty(name)
}

/// Checks if `name` is a table of the catalog that never has rows.
pub(super) fn is_empty(name: &str) -> bool {
    EMPTY.iter().any(|(empty, _)| *empty == name)
}

/// Makes all tables.
pub(super) fn all(named: &[NamedTable], session: &Session) -> Result<Vec<(&'static str, RecordBatch)>, PgError> {
    let mut tables = vec![
        ("pg_namespace", batch(NAMESPACE, &namespaces())?),
        ("pg_class", batch(CLASS, &named.iter().map(class).collect::<Vec<_>>())?),
        ("pg_attribute", batch(ATTRIBUTE, &named.iter().flat_map(attributes).collect::<Vec<_>>())?),
        ("pg_type", batch(TYPE, &type_rows())?),
        ("pg_database", batch(DATABASE, &[database()])?),
        ("pg_roles", batch(ROLES, &[role(&session.user)])?),
        ("pg_user", batch(USER, &[user(&session.user)])?),
        ("pg_am", batch(AM, &[vec![V::Oid(2), t("heap"), t("heap_tableam_handler"), t("t")]])?),
        (
            "pg_tablespace",
            batch(TABLESPACE, &[vec![V::Oid(1663), t("pg_default"), V::Oid(OWNER_OID), V::Null, V::Null]])?,
        ),
        ("pg_settings", batch(SETTINGS, &session.settings.iter().map(setting).collect::<Vec<_>>())?),
        ("pg_tables", batch(TABLES, &named.iter().filter(|named| !named.is_view).map(table).collect::<Vec<_>>())?),
        (receivers::TABLE, batch(receivers::COLUMNS, &receivers::rows())?),
    ];
    for (name, columns) in EMPTY {
        tables.push((name, batch(columns, &[])?));
    }
    Ok(tables)
}

fn namespaces() -> Vec<Vec<V>> {
    let schemas = [(PG_CATALOG_OID, PG_CATALOG), (SCHEMA_OID, SCHEMA), (INFORMATION_SCHEMA_OID, INFORMATION_SCHEMA)];
    schemas.iter().map(|(oid, name)| vec![V::Oid(*oid), t(name), V::Oid(OWNER_OID), V::Null]).collect()
}

fn class(named: &NamedTable) -> Vec<V> {
    let columns = named.schema().map_or(0, |schema| schema.fields().len());
    let no = V::Bool(false);
    let zero = V::Oid(0);
    vec![
        V::Oid(named.oid),
        t(&named.name),
        V::Oid(SCHEMA_OID),
        zero.clone(),
        zero.clone(),
        V::Oid(OWNER_OID),
        V::Oid(2),
        V::Oid(named.oid),
        zero.clone(),
        V::Int(0),
        V::Float(-1.0),
        V::Int(0),
        zero.clone(),
        no.clone(),
        no.clone(),
        t("p"),
        t(if named.is_view { "v" } else { "r" }),
        V::Int(i32::try_from(columns).unwrap_or(i32::MAX)),
        V::Int(0),
        no.clone(),
        no.clone(),
        no.clone(),
        no.clone(),
        no.clone(),
        V::Bool(true),
        t("d"),
        no,
        zero.clone(),
        zero.clone(),
        zero,
        V::Null,
        V::Null,
        V::Null,
    ]
}

fn attributes(named: &NamedTable) -> Vec<Vec<V>> {
    // A table that cannot be opened is listed without columns.
    let Ok(schema) = named.schema() else { return Vec::new() };
    let schema = plain_schema(&schema);
    let no = || V::Bool(false);
    let attribute = |(index, field): (usize, &Arc<Field>)| {
        let kind = PgType::of(field.data_type());
        let number = i32::try_from(index + 1).unwrap_or(i32::MAX);
        let collation = if kind.oid() == 25 { 100 } else { 0 };
        vec![
            V::Oid(named.oid),
            t(field.name()),
            V::Oid(kind.oid()),
            V::Int(-1),
            V::Int(kind.size().into()),
            V::Int(number),
            V::Int(i32::from(kind.is_array)),
            V::Int(-1),
            V::Int(kind.modifier),
            no(),
            t("i"),
            t("p"),
            t(""),
            no(),
            no(),
            no(),
            t(""),
            t(""),
            no(),
            V::Bool(true),
            V::Int(0),
            V::Oid(collation),
            V::Null,
            V::Null,
            V::Null,
            V::Null,
        ]
    };
    schema.fields().iter().enumerate().map(attribute).collect()
}

fn type_rows() -> Vec<Vec<V>> {
    let row = |oid: u32, name: &str, size: i16, category: &str, element: u32, array: u32| {
        // All arrays share their functions.
        let own = |end: &str| t(&if category == "A" { format!("array_{end}") } else { format!("{name}{end}") });
        let collation = if name == "text" { 100 } else { 0 };
        vec![
            V::Oid(oid),
            t(name),
            V::Oid(PG_CATALOG_OID),
            V::Oid(OWNER_OID),
            V::Int(size.into()),
            V::Bool((1..=8).contains(&size)),
            t("b"),
            t(category),
            V::Bool(false),
            V::Bool(true),
            t(","),
            V::Oid(0),
            t("-"),
            V::Oid(element),
            V::Oid(array),
            own("in"),
            own("out"),
            own("recv"),
            own("send"),
            t("-"),
            t("-"),
            t("-"),
            t("i"),
            t("p"),
            V::Bool(false),
            V::Oid(0),
            V::Int(-1),
            V::Int(0),
            V::Oid(collation),
            V::Null,
            V::Null,
            V::Null,
        ]
    };
    let mut rows = Vec::new();
    for (oid, array, size, name) in types::all() {
        let category = match name {
            "bool" => "B",
            "text" => "S",
            "date" | "time" | "timestamp" | "timestamptz" => "D",
            "interval" => "T",
            "bytea" | "json" => "U",
            _ => "N",
        };
        rows.push(row(oid, name, size, category, 0, array));
        rows.push(row(array, &format!("_{name}"), -1, "A", oid, 0));
    }
    // Types that clients look up by name, although no column has them.
    for (oid, name, size, category) in [
        (18, "char", 1, "Z"),
        (19, "name", 64, "S"),
        (705, "unknown", -2, "X"),
        (1042, "bpchar", -1, "S"),
        (1043, "varchar", -1, "S"),
        (2205, "regclass", 4, "N"),
        (2278, "void", 4, "P"),
        (2950, "uuid", 16, "U"),
        (3802, "jsonb", -1, "U"),
    ] {
        rows.push(row(oid, name, size, category, 0, 0));
    }
    rows
}

fn database() -> Vec<V> {
    vec![
        V::Oid(DATABASE_OID),
        t(CATALOG),
        V::Oid(OWNER_OID),
        V::Int(6),
        t("c"),
        V::Bool(false),
        V::Bool(true),
        V::Int(-1),
        V::Oid(0),
        V::Oid(0),
        V::Oid(1663),
        t("C"),
        t("C"),
        V::Null,
        V::Null,
        V::Null,
    ]
}

fn role(user: &str) -> Vec<V> {
    let no = || V::Bool(false);
    vec![
        V::Oid(OWNER_OID),
        t(user),
        no(),
        V::Bool(true),
        no(),
        no(),
        V::Bool(true),
        no(),
        V::Int(-1),
        t("********"),
        V::Null,
        no(),
        V::Null,
    ]
}

fn user(user: &str) -> Vec<V> {
    let no = || V::Bool(false);
    vec![t(user), V::Oid(OWNER_OID), no(), no(), no(), no(), t("********"), V::Null, V::Null]
}

fn setting((name, value): (&String, &String)) -> Vec<V> {
    vec![
        t(name),
        t(value),
        V::Null,
        t("Buzz"),
        t(""),
        V::Null,
        t("user"),
        t("string"),
        t("default"),
        V::Null,
        V::Null,
        V::Null,
        t(value),
        t(value),
        V::Null,
        V::Null,
        V::Bool(false),
    ]
}

fn table(named: &NamedTable) -> Vec<V> {
    let no = || V::Bool(false);
    vec![t(SCHEMA), t(&named.name), t(CATALOG), V::Null, no(), no(), no(), no()]
}

/// Makes a table with `columns`, such as `oid:o relname:t`, of `rows`.
pub(super) fn batch(columns: &str, rows: &[Vec<V>]) -> Result<RecordBatch, PgError> {
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (index, column) in columns.split_whitespace().enumerate() {
        let (name, kind) = column.split_once(':').unwrap_or((column, "t"));
        let values = rows.iter().map(|row| row.get(index).unwrap_or(&V::Null));
        let array: ArrayRef = match kind {
            "o" => Arc::new(
                values.map(|value| if let V::Oid(oid) = value { Some(*oid) } else { None }).collect::<UInt32Array>(),
            ),
            "i" => Arc::new(values.map(int).collect::<Int32Array>()),
            "s" => Arc::new(
                values.map(|value| int(value).and_then(|value| i16::try_from(value).ok())).collect::<Int16Array>(),
            ),
            "b" => Arc::new(
                values
                    .map(|value| if let V::Bool(flag) = value { Some(*flag) } else { None })
                    .collect::<BooleanArray>(),
            ),
            "f" => Arc::new(
                values
                    .map(|value| if let V::Float(number) = value { Some(*number) } else { None })
                    .collect::<Float32Array>(),
            ),
            "a" => Arc::new(ListArray::from_iter_primitive::<Int16Type, Vec<Option<i16>>, _>(values.map(|_| None))),
            _ => Arc::new(
                values
                    .map(|value| if let V::Text(text) = value { Some(text.as_str()) } else { None })
                    .collect::<StringArray>(),
            ),
        };
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(QueryError::from)?)
}

fn int(value: &V) -> Option<i32> {
    if let V::Int(number) = value { Some(*number) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_as_many_values_as_columns() {
        let session = Session { user: "ann".to_string(), settings: Default::default() };
        let count = |columns: &str| columns.split_whitespace().count();
        let named = NamedTable {
            oid: 1,
            name: "t".to_string(),
            is_view: false,
            is_recorded: false,
            description: Err(QueryError::data("missing")),
        };
        let one = std::slice::from_ref(&named);
        assert_eq!(class(&named).len(), count(CLASS));
        assert_eq!(type_rows()[0].len(), count(TYPE));
        assert_eq!(database().len(), count(DATABASE));
        assert_eq!(role("ann").len(), count(ROLES));
        assert_eq!(user("ann").len(), count(USER));
        assert_eq!(setting((&String::new(), &String::new())).len(), count(SETTINGS));
        assert_eq!(table(&named).len(), count(TABLES));
        let tables = all(one, &session).unwrap();
        assert!(tables.iter().all(|(name, _)| is_known(name)));
        assert_eq!(tables.len(), FILLED.len() + EMPTY.len());
    }
}
