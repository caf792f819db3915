//! The documents compared with the code: names that a page quotes exist, and lists that a page promises are
//! complete.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::deploy::{files, read, words};

/// Folders with Rust code that documents quote.
const CODE: [&str; 17] = [
    "access",
    "answer",
    "console",
    "dns",
    "liveness",
    "shared",
    "bus",
    "settings",
    "host",
    "control-plane",
    "edge-gateway",
    "follow",
    "sim",
    "muster",
    "tests",
    "benches",
    "proto",
];

fn sources() -> Vec<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    CODE.iter().filter(|folder| root.join(folder).is_dir()).flat_map(|folder| files(folder, ".rs")).collect()
}

/// The texts between backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// Labels of the metric `muster_edge_resyncs_total`, from the source of `enum Cause`.
fn causes() -> BTreeSet<String> {
    let source = sources()
        .into_iter()
        .filter(|path| path.ends_with("cause.rs"))
        .map(read)
        .find(|text| text.contains("enum Cause"))
        .expect("a file defines the causes of resynchronisations");
    let (_, label) = source.split_once("fn label").expect("each cause has a label");
    let (label, _) = label.split_once("\n    }\n").expect("the function ends");
    label.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_settings_for_spring_cloud_are_those_that_were_tried() {
    let tried = read("tests/eureka/spring/src/main/resources/application.yml");
    assert!(read("docs/eureka.md").contains(&format!("```yaml\n{tried}```\n")));
}

#[test]
fn every_resync_cause_has_a_row_in_its_runbook() {
    let page = read("docs/runbooks/resyncs.md");
    let explained: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    assert!(causes().len() > 5, "the source was not understood: {:?}", causes());
    assert_eq!(explained, causes());
}

#[test]
fn every_test_that_guarantees_quote_exists() {
    let page = read("docs/guarantees.md");
    let quoted: BTreeSet<&str> = quoted(&page)
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
        .filter(|name| name.matches('_').count() >= 2)
        .filter(|name| !name.starts_with("muster_"))
        .collect();
    assert!(quoted.len() > 60, "the page was not understood: {quoted:?}");
    let mut existing = BTreeSet::new();
    for path in sources() {
        existing.extend(words(&read(path)).map(str::to_owned));
    }
    let missing: Vec<_> = quoted.into_iter().filter(|name| !existing.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/guarantees.md quotes tests that do not exist: {missing:?}");
    let cases: String = files("tests/conformance/cases", ".txt").into_iter().map(read).collect();
    for title in page.split("conformance case \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(cases.lines().any(|line| line == title), "there is no conformance case {title:?}");
    }
}

#[test]
fn every_decision_is_in_the_index() {
    let index = read("docs/decisions/README.md");
    for path in files("docs/decisions", ".md") {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        assert!(name == "README.md" || index.contains(&format!("]({name})")), "{name} is not in the index");
    }
}

#[test]
fn every_crate_stands_in_the_readme() {
    let manifest = read("Cargo.toml");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ")).expect("a list");
    let readme = read("README.md");
    for member in members.split('"').skip(1).step_by(2) {
        let folder = member.split('/').next().unwrap_or(member);
        assert!(readme.contains(&format!("`{folder}/`")), "{folder} is missing in the list of folders");
    }
}
