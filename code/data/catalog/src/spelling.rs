//! Columns whose names differ only in case, as in files that several programs wrote. They are one column, unless a file
//! has both.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The spellings of the columns of some files.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Spellings {
    /// The name of the column for each other spelling of it.
    names: BTreeMap<String, String>,
}

impl Spellings {
    /// Finds the columns with several spellings in `files`, each a list of names. A column is called by its name in lower
    /// case if a file has it, otherwise by its first spelling.
    pub(crate) fn of<'a>(files: impl IntoIterator<Item = impl IntoIterator<Item = &'a str>>) -> Spellings {
        let mut all: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut apart: BTreeSet<String> = BTreeSet::new();
        for file in files {
            let mut here: HashSet<String> = HashSet::new();
            for name in file {
                let lower = name.to_lowercase();
                if !here.insert(lower.clone()) {
                    apart.insert(lower.clone());
                }
                let known = all.entry(lower).or_default();
                if !known.contains(&name) {
                    known.push(name);
                }
            }
        }
        let mut names = BTreeMap::new();
        for (lower, spellings) in all.iter().filter(|(lower, spellings)| spellings.len() > 1 && !apart.contains(*lower))
        {
            let name = spellings.iter().find(|name| **name == lower).unwrap_or(&spellings[0]);
            let others = spellings.iter().filter(|other| *other != name);
            names.extend(others.map(|other| (other.to_string(), name.to_string())));
        }
        Spellings { names }
    }

    /// Returns the name of the column that a file calls `name`.
    pub(crate) fn name<'a>(&'a self, name: &'a str) -> &'a str {
        self.names.get(name).map_or(name, String::as_str)
    }

    /// Returns the other spellings of each column that has some.
    pub(crate) fn others(&self) -> BTreeMap<String, Vec<String>> {
        let mut others: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (other, name) in &self.names {
            others.entry(name.clone()).or_default().push(other.clone());
        }
        others
    }

    /// Returns a warning for each column that has several spellings.
    pub(crate) fn warnings(&self, table: &str) -> Vec<String> {
        let warning = |(name, others): (String, Vec<String>)| {
            let others = others.iter().map(|other| format!("`{other}`")).collect::<Vec<_>>().join(", ");
            format!("table `{table}`: some files spell column `{name}` as {others}; it is read as one column")
        };
        self.others().into_iter().map(warning).collect()
    }
}

/// Finds `name` in `names`: the same name, or the only one that differs just in case. Returns its position.
pub(crate) fn find<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<usize> {
    names.clone().position(|known| known == name).or_else(|| {
        let lower = name.to_lowercase();
        let mut alike = names.enumerate().filter(|(_, known)| known.to_lowercase() == lower);
        let (index, _) = alike.next()?;
        alike.next().is_none().then_some(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_one_column_unless_a_file_has_both() {
        let files: [&[&str]; 3] = [&["ID", "x"], &["id", "X", "Y"], &["Id", "Y", "y"]];
        let spellings = Spellings::of(files.map(|file| file.iter().copied()));
        assert_eq!(
            ["ID", "Id", "id", "X", "Y", "y"].map(|name| spellings.name(name)),
            ["id", "id", "id", "x", "Y", "y"]
        );
        let warnings = spellings.warnings("t");
        assert_eq!(warnings[0], "table `t`: some files spell column `id` as `ID`, `Id`; it is read as one column");
        assert_eq!(find("id", ["x", "ID"].into_iter()), Some(1));
        assert_eq!(find("id", ["Id", "ID"].into_iter()), None);
    }
}
