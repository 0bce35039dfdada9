//! Replaces expressions of PostgreSQL that DataFusion's SQL lacks with equal ones.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Array, ArrayElemTypeDef, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query, SelectItem, SetExpr, Statement,
    TableFactor, Value, VisitMut, VisitorMut,
};

use crate::pg_catalog::{INFORMATION_SCHEMA, PG_CATALOG, Session, empty, patterns, receivers};

/// The function with which Grafana takes the search path apart, in FROM.
pub(super) const SPLIT_FUNCTION: &str = "string_to_array";

/// Rewrites `statement` of `session`.
pub(super) fn rewrite(statement: &mut Statement, session: &Session) {
    if let Statement::Query(query) = statement {
        name_columns(&mut query.body);
    }
    _ = statement.visit(&mut Rewriter { search_path: search_path(session), ..Rewriter::default() });
}

/// Returns the schemas of the search path, as Grafana finds them: `"$user"` is the user.
fn search_path(session: &Session) -> Vec<Expr> {
    let path = session.settings.get("search_path").map_or("", String::as_str);
    let schemas = path.split(',').map(|schema| match schema.trim() {
        "\"$user\"" => text(&session.user),
        schema => text(schema),
    });
    schemas.collect()
}

/// Checks if `query` takes the search path apart, for a comparison with each schema.
fn is_search_path(query: &Query) -> bool {
    let text = query.to_string().to_lowercase();
    // The subquery itself, and not one around it.
    text.matches("select ").count() == 1 && text.contains("string_to_array(current_setting('search_path')")
}

/// Gives the columns of the statement the names that PostgreSQL gives them.
fn name_columns(set: &mut SetExpr) {
    match set {
        SetExpr::Select(select) => {
            for item in &mut select.projection {
                if let SelectItem::UnnamedExpr(expr) = item
                    && !matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
                {
                    let alias = Ident::with_quote('"', empty::name(expr));
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            }
            // A column that `*` selects too has a name of its own.
            if select.projection.iter().any(is_wildcard) {
                for item in &mut select.projection {
                    if let SelectItem::UnnamedExpr(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) = item {
                        let alias = Ident::with_quote('"', format!("{} ", empty::name(expr)));
                        *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                    }
                }
            }
            unique(&mut select.projection);
        }
        SetExpr::Query(query) => name_columns(&mut query.body),
        SetExpr::SetOperation { left, .. } => name_columns(left),
        _ => {}
    }
}

fn is_wildcard(item: &SelectItem) -> bool {
    matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..))
}

/// Adds a space to a name that was given before: DataFusion requires unique names, and clients read columns by number.
fn unique(items: &mut [SelectItem]) {
    let mut seen = std::collections::HashSet::new();
    for item in items {
        let named = match item {
            SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
            SelectItem::UnnamedExpr(expr) => empty::name(expr),
            _ => continue,
        };
        let mut name = named.clone();
        while !seen.insert(name.clone()) {
            name.push(' ');
        }
        if name == named {
            continue;
        }
        let alias = Ident::with_quote('"', name);
        match item {
            SelectItem::ExprWithAlias { alias: old, .. } => *old = alias,
            SelectItem::UnnamedExpr(expr) => *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias },
            _ => {}
        }
    }
}

#[derive(Default)]
struct Rewriter {
    /// Texts of subqueries whose rows are compared one by one, before they are visited.
    compared: Vec<String>,
    /// Addresses of these subqueries.
    kept: Vec<usize>,
    /// The schemas of the search path.
    search_path: Vec<Expr>,
}

impl VisitorMut for Rewriter {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::InSubquery { expr: schema, subquery, negated } = expr
            && is_search_path(subquery)
        {
            *expr = Expr::InList { expr: schema.clone(), list: self.search_path.clone(), negated: *negated };
        }
        if let Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } = expr
            && let Expr::Subquery(query) = right.as_ref()
        {
            self.compared.push(query.to_string());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let text = query.to_string();
        if let Some(at) = self.compared.iter().position(|compared| *compared == text) {
            // Its text changes while it is rewritten.
            self.compared.remove(at);
            self.kept.push(std::ptr::from_ref(query).addr());
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        // Functions are found by their names only.
        if let TableFactor::Table { name, args: Some(_), .. } = factor {
            without_schema(name);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Collate { expr: inner, .. } => *expr = inner.as_ref().clone(),
            Expr::BinaryOp { left, op, right } => {
                if let Some(plain) = operator(op) {
                    *op = plain;
                }
                if matches!(op, BinaryOperator::Eq | BinaryOperator::NotEq) && is_function(left) && is_zero(right) {
                    **right = text("-");
                }
            }
            Expr::Cast { expr: inner, data_type, .. } => {
                if let Some(new) = cast(inner, data_type) {
                    *expr = new;
                }
            }
            Expr::Function(function) => {
                without_schema(&mut function.name);
                if let FunctionArguments::Subquery(query) = &function.args {
                    *expr = if empty::is_empty(query) { null() } else { array_of(query) };
                }
            }
            Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
                if let Some(list) = elements(right) {
                    *expr = Expr::InList { expr: left.clone(), list, negated: true };
                }
            }
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                patterns::escape_with_backslashes(pattern, escape_char);
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } if literal(right).is_some() => {
                if let Some(list) = elements(right) {
                    *expr = Expr::InList { expr: left.clone(), list, negated: false };
                }
            }
            // The transaction that wrote a row: the first one.
            Expr::CompoundIdentifier(parts) if parts.last().is_some_and(|last| last.value == "xmin") => {
                *expr = Expr::Value(Value::Number("1".to_string(), false).into());
            }
            Expr::Subquery(query) if empty::is_empty(query) => *expr = null(),
            Expr::Subquery(query) if !self.kept.contains(&std::ptr::from_ref(query.as_ref()).addr()) => single(query),
            Expr::Exists { subquery, negated } if empty::is_empty(subquery) => *expr = boolean(*negated),
            Expr::InSubquery { subquery, negated, .. } if empty::is_empty(subquery) => *expr = boolean(*negated),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Returns the array of the rows of `query`, for `ARRAY(SELECT …)`. Their order is not kept.
fn array_of(query: &Query) -> Expr {
    let mut query = query.clone();
    if let SetExpr::Select(select) = query.body.as_mut()
        && let [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] =
            select.projection.as_mut_slice()
    {
        *expr = call("array_agg", vec![expr.clone()]);
        query.order_by = None;
    }
    Expr::Subquery(Box::new(query))
}

/// Checks if `expr` is a column that refers to a function.
fn is_function(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) && receivers::is_reference(&empty::name(expr))
}

fn is_zero(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(&value.value, Value::Number(number, _) if number == "0"))
}

/// Makes an aggregate of a scalar subquery, which DataFusion requires of one that refers to the rows around it. It has at most
/// one row, so that the largest value is the only one.
fn single(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    if query.limit_clause.is_some() || empty::is_aggregated(select) {
        return;
    }
    if let [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] = select.projection.as_mut_slice() {
        *expr = call("max", vec![expr.clone()]);
        query.order_by = None;
    }
}

/// Removes the schema of the catalog from the name of a function.
fn without_schema(name: &mut ObjectName) {
    if let [ObjectNamePart::Identifier(schema), last] = name.0.as_slice()
        && [PG_CATALOG, INFORMATION_SCHEMA].contains(&schema.value.to_lowercase().as_str())
    {
        *name = ObjectName(vec![last.clone()]);
    }
}

/// Returns the elements of an array that is written out and has some.
fn elements(expr: &Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::Nested(inner) => elements(inner),
        Expr::Array(array) if !array.elem.is_empty() => Some(array.elem.clone()),
        // Its type is that of the other side, a text.
        _ => match array(literal(expr)?, &DataType::Text) {
            Expr::Array(array) if !array.elem.is_empty() => Some(array.elem),
            _ => None,
        },
    }
}

fn null() -> Expr {
    Expr::Value(Value::Null.into())
}

fn boolean(value: bool) -> Expr {
    Expr::Value(Value::Boolean(value).into())
}

fn text(value: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(value.to_string()).into())
}

/// Returns the operator that is written as `OPERATOR(pg_catalog.…)`.
fn operator(op: &BinaryOperator) -> Option<BinaryOperator> {
    let BinaryOperator::PGCustomBinaryOperator(parts) = op else { return None };
    Some(match parts.last()?.as_str() {
        "~" => BinaryOperator::PGRegexMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "~~*" => BinaryOperator::PGILikeMatch,
        "!~~*" => BinaryOperator::PGNotILikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: vec![] }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// Returns the text of a literal.
fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text),
            _ => None,
        },
        Expr::Nested(inner) => literal(inner),
        // A cast of a literal that was replaced before, such as a parameter.
        Expr::Cast { expr, data_type: DataType::Varchar(None), .. } => literal(expr),
        Expr::Function(function) if function.name.to_string() == "arrow_cast" => match &function.args {
            FunctionArguments::List(list) => match list.args.first() {
                Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(inner))) => literal(inner),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// Returns what stands for `expr::data_type`; None if DataFusion has the cast.
fn cast(expr: &Expr, data_type: &DataType) -> Option<Expr> {
    if let DataType::Array(element) = data_type {
        let element = match element {
            ArrayElemTypeDef::AngleBracket(element)
            | ArrayElemTypeDef::SquareBracket(element, _)
            | ArrayElemTypeDef::Parenthesis(element) => element.as_ref(),
            ArrayElemTypeDef::None => return None,
        };
        return Some(match literal(expr) {
            Some(elements) => array(elements, element),
            // The elements have a type already.
            None => expr.clone(),
        });
    }
    let name = type_name(data_type);
    let plain = |data_type: DataType| {
        Some(Expr::Cast {
            kind: CastKind::DoubleColon,
            expr: Box::new(expr.clone()),
            data_type,
            array: false,
            format: None,
        })
    };
    match name.as_str() {
        "regproc" if literal(expr).is_some_and(|name| receivers::array_function(name).is_some()) => {
            literal(expr).and_then(receivers::array_function).map(text)
        }
        "regproc" if literal(expr).is_none() => plain(DataType::Varchar(None)),
        "regclass" | "regtype" | "regnamespace" | "regrole" | "regproc" | "regprocedure" | "regoper" | "regconfig" => {
            let direction = if literal(expr).is_some() { "in" } else { "out" };
            let known = if ["regclass", "regtype", "regnamespace"].contains(&name.as_str()) {
                name.as_str()
            } else {
                "regother"
            };
            Some(call(&format!("{known}_{direction}"), vec![expr.clone()]))
        }
        "oid" | "xid" | "cid" => plain(DataType::IntegerUnsigned(None)),
        "name" | "text" | "bpchar" | "cstring" | "char" | "varchar" | "character varying" | "sql_identifier"
        | "character_data" | "yes_or_no" | "json" | "jsonb" | "uuid" | "inet" | "pg_node_tree" | "aclitem"
        | "unknown" => plain(DataType::Varchar(None)),
        "int2" | "smallint" => plain(DataType::SmallInt(None)),
        "int4" | "int" | "integer" | "cardinal_number" => plain(DataType::Integer(None)),
        "int8" | "bigint" => plain(DataType::BigInt(None)),
        "bool" | "boolean" => plain(DataType::Boolean),
        "float8" => plain(DataType::DoublePrecision),
        _ => None,
    }
    .filter(|new| !matches!(new, Expr::Cast { data_type: same, .. } if same == data_type))
}

/// Returns the name of a type in lower case, without its schema and length.
fn type_name(data_type: &DataType) -> String {
    let name = match data_type {
        DataType::Custom(name, _) => name.0.last().and_then(|part| part.as_ident()).map(|ident| ident.value.clone()),
        DataType::Char(_) | DataType::Character(_) => Some("char".to_string()),
        DataType::Varchar(_) | DataType::CharacterVarying(_) | DataType::CharVarying(_) => Some("varchar".to_string()),
        _ => None,
    };
    name.unwrap_or_else(|| data_type.to_string()).to_lowercase()
}

/// Returns the array that is written as `'{a,b}'`.
fn array(elements: &str, element: &DataType) -> Expr {
    let inner = elements.trim().trim_start_matches('{').trim_end_matches('}');
    let parts = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
    let elem = parts.map(|part| {
        let part = text(part.trim_matches('"'));
        cast(&part, element).unwrap_or(part)
    });
    Expr::Array(Array { elem: elem.collect(), named: true })
}
