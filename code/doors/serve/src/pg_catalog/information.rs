//! The tables of `information_schema`.

use arrow::array::RecordBatch;

use crate::desk::{CATALOG, SCHEMA};
use crate::names::NamedTable;
use crate::pg_catalog::tables::{V, batch, t};
use crate::pg_catalog::{INFORMATION_SCHEMA, PG_CATALOG};
use crate::planner::plain_schema;
use crate::postgres::error::PgError;
use crate::postgres::types::{Base, PgType, format_type};

const TABLES: &str = "table_catalog:t table_schema:t table_name:t table_type:t self_referencing_column_name:t \
    reference_generation:t user_defined_type_catalog:t user_defined_type_schema:t user_defined_type_name:t \
    is_insertable_into:t is_typed:t commit_action:t";
const SCHEMATA: &str = "catalog_name:t schema_name:t schema_owner:t default_character_set_catalog:t \
    default_character_set_schema:t default_character_set_name:t sql_path:t";
const COLUMNS: &str = "table_catalog:t table_schema:t table_name:t column_name:t ordinal_position:i column_default:t \
    is_nullable:t data_type:t character_maximum_length:i character_octet_length:i numeric_precision:i \
    numeric_precision_radix:i numeric_scale:i datetime_precision:i interval_type:t interval_precision:i \
    character_set_catalog:t character_set_schema:t character_set_name:t collation_catalog:t collation_schema:t \
    collation_name:t domain_catalog:t domain_schema:t domain_name:t udt_catalog:t udt_schema:t udt_name:t \
    scope_catalog:t scope_schema:t scope_name:t maximum_cardinality:i dtd_identifier:t is_self_referencing:t \
    is_identity:t identity_generation:t identity_start:t identity_increment:t identity_maximum:t identity_minimum:t \
    identity_cycle:t is_generated:t generation_expression:t is_updatable:t";

const CHARACTER_SETS: &str = "character_set_catalog:t character_set_schema:t character_set_name:t \
    character_repertoire:t form_of_use:t default_collate_catalog:t default_collate_schema:t default_collate_name:t";

/// Tables that never have rows.
const EMPTY: [(&str, &str); 9] = [
    ("views", "table_catalog:t table_schema:t table_name:t view_definition:t check_option:t is_updatable:t"),
    (
        "table_constraints",
        "constraint_catalog:t constraint_schema:t constraint_name:t table_catalog:t table_schema:t table_name:t \
         constraint_type:t is_deferrable:t initially_deferred:t enforced:t",
    ),
    (
        "key_column_usage",
        "constraint_catalog:t constraint_schema:t constraint_name:t table_catalog:t table_schema:t table_name:t \
         column_name:t ordinal_position:i position_in_unique_constraint:i",
    ),
    (
        "referential_constraints",
        "constraint_catalog:t constraint_schema:t constraint_name:t unique_constraint_catalog:t \
         unique_constraint_schema:t unique_constraint_name:t match_option:t update_rule:t delete_rule:t",
    ),
    (
        "constraint_column_usage",
        "table_catalog:t table_schema:t table_name:t column_name:t constraint_catalog:t constraint_schema:t \
         constraint_name:t",
    ),
    (
        "routines",
        "specific_catalog:t specific_schema:t specific_name:t routine_catalog:t routine_schema:t routine_name:t routine_type:t data_type:t",
    ),
    (
        "parameters",
        "specific_catalog:t specific_schema:t specific_name:t ordinal_position:i parameter_mode:t parameter_name:t data_type:t",
    ),
    ("sequences", "sequence_catalog:t sequence_schema:t sequence_name:t data_type:t"),
    ("triggers", "trigger_catalog:t trigger_schema:t trigger_name:t event_object_table:t"),
];

/// Checks if `name` is a table of the schema that never has rows.
pub(super) fn is_empty(name: &str) -> bool {
    EMPTY.iter().any(|(empty, _)| *empty == name)
}

/// Makes all tables.
pub(super) fn all(named: &[NamedTable]) -> Result<Vec<(&'static str, RecordBatch)>, PgError> {
    let tables: Vec<Vec<V>> = named.iter().map(table).collect();
    let schemata: Vec<Vec<V>> = [PG_CATALOG, SCHEMA, INFORMATION_SCHEMA]
        .map(|schema| vec![t(CATALOG), t(schema), t(CATALOG), V::Null, V::Null, V::Null, V::Null])
        .into();
    let columns: Vec<Vec<V>> = named.iter().flat_map(columns).collect();
    let mut all = vec![
        ("tables", batch(TABLES, &tables)?),
        ("schemata", batch(SCHEMATA, &schemata)?),
        ("columns", batch(COLUMNS, &columns)?),
        ("character_sets", batch(CHARACTER_SETS, &[character_set()])?),
    ];
    for (name, columns) in EMPTY {
        all.push((name, batch(columns, &[])?));
    }
    Ok(all)
}

fn character_set() -> Vec<V> {
    vec![V::Null, V::Null, t("UTF8"), t("UCS"), t("UTF8"), t(CATALOG), t(PG_CATALOG), t("C")]
}

fn table(named: &NamedTable) -> Vec<V> {
    let kind = if named.is_view { "VIEW" } else { "BASE TABLE" };
    let mut row = vec![t(CATALOG), t(SCHEMA), t(&named.name), t(kind)];
    row.extend([V::Null, V::Null, V::Null, V::Null, V::Null, t("NO"), t("NO"), V::Null]);
    row
}

fn columns(named: &NamedTable) -> Vec<Vec<V>> {
    let Ok(schema) = named.schema() else { return Vec::new() };
    let schema = plain_schema(&schema);
    let column = |(index, field): (usize, &std::sync::Arc<arrow::datatypes::Field>)| {
        let kind = PgType::of(field.data_type());
        let name = format_type(kind.oid(), -1).unwrap_or_default();
        let own = |number: Option<i32>| number.map_or(V::Null, V::Int);
        let bits = match kind.base {
            _ if kind.is_array => None,
            Base::Int2 => Some(16),
            Base::Int4 => Some(32),
            Base::Int8 => Some(64),
            Base::Float4 => Some(24),
            Base::Float8 => Some(53),
            _ => None,
        };
        let packed = (kind.base == Base::Numeric && !kind.is_array && kind.modifier >= 4).then(|| kind.modifier - 4);
        let precision = bits.or(packed.map(|packed| packed >> 16));
        let scale = match kind.base {
            Base::Int2 | Base::Int4 | Base::Int8 if !kind.is_array => Some(0),
            _ => packed.map(|packed| packed & 0xffff),
        };
        let radix = bits.map(|_| 2).or(packed.map(|_| 10));
        let is_time = matches!(kind.base, Base::Time | Base::Timestamp | Base::Timestamptz | Base::Interval);
        let mut row = vec![
            t(CATALOG),
            t(SCHEMA),
            t(&named.name),
            t(field.name()),
            V::Int(i32::try_from(index + 1).unwrap_or(i32::MAX)),
            V::Null,
            t("YES"),
            t(if kind.is_array { "ARRAY" } else { &name }),
            V::Null,
            V::Null,
            own(precision),
            own(radix),
            own(scale),
            own((is_time && !kind.is_array).then_some(6)),
        ];
        row.extend(std::iter::repeat_n(V::Null, 11));
        row.extend([t(CATALOG), t(PG_CATALOG), t(&udt_name(kind))]);
        row.extend(std::iter::repeat_n(V::Null, 4));
        row.extend([t(&(index + 1).to_string()), t("NO"), t("NO")]);
        row.extend(std::iter::repeat_n(V::Null, 6));
        row.extend([t("NEVER"), V::Null, t("NO")]);
        row
    };
    schema.fields().iter().enumerate().map(column).collect()
}

fn udt_name(kind: PgType) -> String {
    let base = kind.base.oid();
    let name = crate::postgres::types::all().find(|row| row.0 == base).map_or("", |row| row.3);
    if kind.is_array { format!("_{name}") } else { name.to_string() }
}

#[cfg(test)]
mod tests {
    use buzz_engine::TableDescription;

    use super::*;

    #[test]
    fn columns_are_described_as_postgresql_does() {
        let description = TableDescription {
            name: "t".to_string(),
            kind: "Parquet".to_string(),
            uri: "t".to_string(),
            version: None,
            files: 1,
            bytes: 1,
            partition_columns: Vec::new(),
            columns: vec![
                ("price".to_string(), "Decimal128(10, 2)".to_string()),
                ("names".to_string(), "List(Utf8)".to_string()),
            ],
            warnings: Vec::new(),
            file_list: Vec::new(),
        };
        let named = NamedTable {
            oid: 1,
            name: "t".to_string(),
            is_view: false,
            is_recorded: false,
            description: Ok(description),
        };
        let rows = columns(&named);
        assert_eq!(rows[0].len(), COLUMNS.split_whitespace().count());
        assert_eq!(table(&named).len(), TABLES.split_whitespace().count());
        let text = |row: &[V]| row.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>();
        let price = text(&rows[0]);
        assert_eq!(
            (price[7].as_str(), price[10].as_str(), price[12].as_str()),
            ("Text(\"numeric\")", "Int(10)", "Int(2)")
        );
        assert_eq!(price[27], "Text(\"numeric\")");
        assert_eq!((text(&rows[1])[7].as_str(), text(&rows[1])[27].as_str()), ("Text(\"ARRAY\")", "Text(\"_text\")"));
    }
}
