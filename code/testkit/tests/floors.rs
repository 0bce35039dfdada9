//! The floors of the crates: which crate may use which, and the drawing of them in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use buzz_testkit::workspace_root as root;
use serde_json::Value;

/// Floors from bottom to top. A crate uses its own floor and those below.
const FLOORS: [&str; 5] = ["words", "data", "query", "hosts", "doors"];

/// Pairs of crates of which the first must not use the second.
const STRANGERS: [(&str, &str); 9] = [
    ("fuse", "hbee"),
    ("fuse", "hcomb"),
    ("hbee", "fuse"),
    ("hbee", "hcomb"),
    ("hcomb", "fuse"),
    ("hcomb", "hbee"),
    ("hbee", "plan"),
    ("hbee", "catalog"),
    ("plan", "host"),
];

/// The crates that may use the SDK of the cloud.
const SDK_USERS: [&str; 3] = ["aws", "lambda", "client"];

/// The crate for development, on which no floor is set, and which only tests may use.
const TESTKIT: &str = "testkit";

/// One crate of the workspace, under its name without `buzz-`.
#[derive(Debug)]
struct Crate {
    floor: String,
    /// Crates of the workspace that it uses, without those for tests only.
    uses: BTreeSet<String>,
    /// Other packages that it uses, without those for tests only.
    packages: BTreeSet<String>,
    /// True if it has a program.
    has_program: bool,
}

/// Reads the crates from the manifests.
fn crates() -> BTreeMap<String, Crate> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo starts");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    list(&metadata["packages"]).iter().map(crate_of).collect()
}

fn crate_of(package: &Value) -> (String, Crate) {
    let manifest = Path::new(text(&package["manifest_path"]));
    let folder = manifest.parent().and_then(|folder| folder.strip_prefix(root().join("code")).ok());
    let floor = folder.and_then(|folder| folder.iter().next()).expect("crates are below code/");
    let (mut uses, mut packages) = (BTreeSet::new(), BTreeSet::new());
    for dependency in list(&package["dependencies"]).iter().filter(|dependency| dependency["kind"] != "dev") {
        let name = text(&dependency["name"]);
        match name.strip_prefix("buzz-") {
            Some(short) => uses.insert(short.to_string()),
            None => packages.insert(name.to_string()),
        };
    }
    let has_program = list(&package["targets"]).iter().any(|target| list(&target["kind"]).contains(&"bin".into()));
    let short = text(&package["name"]).strip_prefix("buzz-").expect("names of crates begin with `buzz-`");
    (short.to_string(), Crate { floor: floor.to_string_lossy().into_owned(), uses, packages, has_program })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo metadata has a text here")
}

/// Returns the number of `floor`, counted from the bottom.
fn height(floor: &str) -> usize {
    FLOORS.iter().position(|known| *known == floor).unwrap_or_else(|| panic!("`{floor}` is not one of {FLOORS:?}"))
}

/// Returns each crate but testkit with each crate that it uses.
fn uses(crates: &BTreeMap<String, Crate>) -> impl Iterator<Item = (&String, &Crate, &String)> {
    let housed = crates.iter().filter(|(name, _)| *name != TESTKIT);
    housed.flat_map(|(name, held)| held.uses.iter().map(move |used| (name, held, used)))
}

#[test]
fn crate_uses_its_own_floor_and_those_below() {
    let crates = crates();
    for (name, user, used) in uses(&crates) {
        assert_ne!(used, TESTKIT, "`{name}` uses `{TESTKIT}` outside its tests");
        let (above, below) = (height(&user.floor), height(&crates[used].floor));
        assert!(above >= below, "`{name}` ({}) uses `{used}` ({}), which is above it", user.floor, crates[used].floor);
    }
}

#[test]
fn strangers_do_not_use_each_other() {
    let crates = crates();
    for (user, used) in STRANGERS {
        assert!(crates.contains_key(used), "there is no crate `{used}`; correct STRANGERS");
        assert!(!crates[user].uses.contains(used), "`{user}` must not use `{used}`");
    }
}

#[test]
fn only_three_crates_use_the_sdk() {
    for (name, held) in crates() {
        let sdk = held.packages.iter().find(|package| package.starts_with("aws-sdk-"));
        if let Some(sdk) = sdk {
            assert!(SDK_USERS.contains(&name.as_str()), "`{name}` uses `{sdk}`; only {SDK_USERS:?} may");
        }
    }
}

#[test]
fn doors_use_queries_only_in_programs() {
    let crates = crates();
    for (name, user, used) in uses(&crates) {
        if user.floor == "doors" && crates[used].floor == "query" {
            assert!(user.has_program, "`{name}` uses `{used}` of the floor `query`, and has no program");
        }
    }
}

#[test]
fn drawing_shows_each_crate_above_those_it_uses() {
    let crates = crates();
    let rows = drawn();
    let row_of = |name: &String| {
        let found: Vec<usize> = (0..rows.len()).filter(|row| rows[*row].1.contains(name)).collect();
        assert_eq!(found.len(), 1, "ARCHITECTURE.md draws `{name}` {} times; draw it once", found.len());
        found[0]
    };
    for (name, held) in crates.iter().filter(|(name, _)| *name != TESTKIT) {
        let floor = &rows[row_of(name)].0;
        assert_eq!(floor, &held.floor, "ARCHITECTURE.md draws `{name}` on floor `{floor}`");
    }
    for (name, _, used) in uses(&crates) {
        assert!(row_of(name) < row_of(used), "ARCHITECTURE.md draws `{used}` not below `{name}`, which uses it");
    }
    for name in rows.iter().flat_map(|(_, names)| names) {
        assert!(crates.contains_key(name), "ARCHITECTURE.md draws `{name}`, which is not a crate");
    }
    let floors: Vec<&str> = rows.iter().rev().map(|(floor, _)| floor.as_str()).collect();
    assert!(floors.is_sorted_by_key(|floor| height(floor)), "ARCHITECTURE.md draws the floors in another order");
}

/// Reads the rows of the drawing, from the top: each has a floor and the crates on it.
fn drawn() -> Vec<(String, BTreeSet<String>)> {
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is readable");
    let section = page.split("## The crates").nth(1).expect("a section on the crates");
    let drawing = section.split("```").nth(1).expect("a drawing of the crates");
    let mut rows: Vec<(String, BTreeSet<String>)> = Vec::new();
    for line in drawing.lines().filter(|line| line.starts_with('│')) {
        let cells: Vec<&str> = line.split('│').map(str::trim).collect();
        let floor = if cells[1].is_empty() {
            rows.last().expect("the first row has a floor").0.clone()
        } else {
            cells[1].into()
        };
        rows.push((floor, cells[2].split_whitespace().map(str::to_string).collect()));
    }
    rows
}

#[test]
fn paths_in_the_documentation_exist() {
    let root = root();
    let folders: Vec<PathBuf> =
        ["", "words", "data", "query", "hosts", "doors"].map(|floor| root.join("code").join(floor)).into();
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md", "docs/tests.md", "docs/deploy.md"] {
        let text = std::fs::read_to_string(root.join(page)).expect("the page is readable");
        for path in text.split('`').skip(1).step_by(2).filter(|quoted| is_source(quoted)).flat_map(alternatives) {
            let found = root.join(&path).exists() || folders.iter().any(|folder| folder.join(&path).exists());
            assert!(found, "{page} names `{path}`, which does not exist");
        }
    }
}

/// Returns true for a path in the sources, such as `query/plan/src/prune.rs`.
fn is_source(quoted: &str) -> bool {
    let plain = quoted.chars().all(|letter| letter.is_ascii_alphanumeric() || "/_-.{,}".contains(letter));
    plain && (quoted.starts_with("code/") || quoted.contains("/src") || quoted.contains("/tests"))
}

/// Expands braces: `src/{a,b}.rs` to `src/a.rs` and `src/b.rs`.
fn alternatives(path: &str) -> Vec<String> {
    let Some((start, rest)) = path.split_once('{') else { return vec![path.to_string()] };
    let (names, end) = rest.split_once('}').expect("braces are closed");
    names.split(',').map(|name| format!("{start}{name}{end}")).collect()
}
