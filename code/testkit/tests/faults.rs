//! The table of faults in the documentation: each test that it names exists.

use std::collections::BTreeSet;
use std::path::Path;

use buzz_testkit::workspace_root as root;

/// Adds the names of all functions in the Rust files below `folder` to `names`.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).expect("the folder of the code exists") {
        let path = entry.expect("an entry of the folder").path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
            let name = |rest: &str| rest.split(['(', '<']).next().unwrap_or_default().trim().to_string();
            names.extend(text.split("fn ").skip(1).map(name));
        }
    }
}

#[test]
fn every_fault_of_the_table_has_its_test() {
    let text = std::fs::read_to_string(root().join("docs/faults.md")).expect("docs/faults.md exists");
    let mut names = BTreeSet::new();
    functions(&root().join("code"), &mut names);
    let mut rows = 0;
    // The tables that tests write name no tests.
    let written = text.split("<!-- matrix: ").enumerate();
    let named: String = written
        .map(
            |(index, part)| {
                if index == 0 { part } else { part.split_once("<!-- end -->").map_or("", |(_, rest)| rest) }
            },
        )
        .collect();
    for row in named.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault |")) {
        let tests = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let tests: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            assert!(names.contains(test), "the test `{test}` does not exist: {row}");
        }
        rows += 1;
    }
    assert!(rows > 20, "{rows} faults");
}
