//! Templates of times, such as `YYYY-MM-DD HH24:MI:SS.US`, which the engine writes as `%Y-%m-%d %H:%M:%S%.f`. Superset filters by
//! time with `TO_TIMESTAMP('…', '…')` and `TO_DATE('…', '…')`.

use crate::scan::{self, Kind};

/// Parts of templates, and how the engine writes them.
const PARTS: [(&str, &str); 9] = [
    ("YYYY", "%Y"),
    ("HH24", "%H"),
    ("MM", "%m"),
    ("DD", "%d"),
    ("MI", "%M"),
    ("SS", "%S"),
    (".US", "%.f"),
    (".MS", "%.f"),
    ("US", "%6f"),
];

/// Returns `sql` in which the templates of calls with two texts are written as the engine writes them. A template with further
/// parts stays as it is.
pub(super) fn translated(sql: &str) -> String {
    let tokens = scan::tokens(sql);
    let is_template = |number: usize| {
        let Some(start) = number.checked_sub(4) else { return false };
        let Some([name, open, value, comma, _, close]) = tokens.get(start..number + 2) else { return false };
        (name.is_word(sql, "to_timestamp") || name.is_word(sql, "to_date"))
            && open.is_symbol(sql, '(')
            && value.kind == Kind::Text
            && comma.is_symbol(sql, ',')
            && close.is_symbol(sql, ')')
    };
    scan::replaced(
        sql,
        |number, token| {
            if token.kind == Kind::Text && is_template(number) { template(token.text(sql)) } else { None }
        },
    )
}

fn template(text: &str) -> Option<String> {
    let mut written = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some((part, own)) = PARTS.iter().find(|(part, _)| rest.starts_with(part)) {
            written.push_str(own);
            rest = rest.strip_prefix(part)?;
        } else if first.is_alphanumeric() || first == '%' || first == '"' {
            return None;
        } else {
            written.push(first);
            rest = rest.strip_prefix(first)?;
        }
    }
    Some(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_written_as_the_engine_writes_them() {
        for (sql, expected) in [
            (
                "a >= TO_TIMESTAMP('2009-01-01 00:00:00.000000', 'YYYY-MM-DD HH24:MI:SS.US')",
                "a >= TO_TIMESTAMP('2009-01-01 00:00:00.000000', '%Y-%m-%d %H:%M:%S%.f')",
            ),
            ("to_date('2009-01-01', 'YYYY-MM-DD')", "to_date('2009-01-01', '%Y-%m-%d')"),
            ("to_timestamp('x', '%Y')", "to_timestamp('x', '%Y')"),
            ("to_timestamp('x', 'Month YYYY')", "to_timestamp('x', 'Month YYYY')"),
            ("f('x', 'YYYY'), 'YYYY-MM'", "f('x', 'YYYY'), 'YYYY-MM'"),
        ] {
            assert_eq!(translated(sql), expected);
        }
    }
}
