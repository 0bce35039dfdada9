//! Names of columns that files spell in another case than their table.

use std::collections::HashSet;

/// Returns the columns of a file by their names in the table, for the file's columns `file` and the table's columns
/// `table`. A name that differs from that of a column just in case stands for the column if the file has no column of
/// exactly that name, and no other spelling of it. Other names are returned as they are.
pub fn names_in_table(file: &[&str], table: &[&str]) -> Vec<String> {
    let known: HashSet<&str> = table.iter().copied().collect();
    let is_other = |name: &str| !known.contains(name);
    if file.iter().all(|name| !is_other(name)) {
        return file.iter().map(ToString::to_string).collect();
    }
    let alike = |a: &str, b: &str| a.to_lowercase() == b.to_lowercase();
    let named = |name: &&str| {
        let mut columns = table.iter().filter(|column| alike(column, name) && !file.contains(column));
        let column = columns.next().filter(|_| columns.next().is_none() && is_other(name));
        let is_only = || file.iter().filter(|other| is_other(other) && alike(other, name)).count() == 1;
        column.filter(|_| is_only()).map_or_else(|| name.to_string(), ToString::to_string)
    };
    file.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_in_another_case_stands_for_a_column_that_the_file_lacks() {
        assert_eq!(names_in_table(&["ID", "x"], &["id", "x"]), ["id", "x"]);
        assert_eq!(names_in_table(&["ID"], &["id", "ID"]), ["ID"]);
        assert_eq!(names_in_table(&["ID", "id"], &["id"]), ["ID", "id"]);
        assert_eq!(names_in_table(&["ID", "Id"], &["id"]), ["ID", "Id"]);
        assert_eq!(names_in_table(&["ÄB"], &["äb"]), ["äb"]);
        assert_eq!(names_in_table(&["a"], &["b"]), ["a"]);
    }
}
