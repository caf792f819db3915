//! The files that we ship to run and watch Muster, compared with the programs: named files exist, settings
//! that are set exist, figures that are queried are exported.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use settings::render_markdown;

mod containers;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn yaml(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref();
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every file below `folder` whose name ends in `suffix`.
pub(crate) fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The words of `text` that can be names of metrics.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':')
}

fn is_ours(name: &str) -> bool {
    ["muster_", "muster:", "service_center_", "process_", "go_"].iter().any(|prefix| name.starts_with(prefix))
}

/// The folders of the workspace's crates, from its manifest: a list in this file would miss the next crate.
fn members() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("\nmembers = [").expect("the workspace has members");
    let (list, _) = rest.split_once(']').expect("the list ends");
    let names = list.split('"').skip(1).step_by(2);
    // The command line only reads figures. If its sources counted, a figure that it asks for would exist.
    names.filter(|name| *name != "muster").map(str::to_owned).collect()
}

/// The names that the programs' sources give to their instruments.
fn instruments() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for member in members() {
        let source = format!("{member}/src");
        if !root().join(&source).is_dir() {
            continue;
        }
        for file in files(&source, ".rs") {
            let text = read(&file);
            let product = text.split("\nmod tests {").next().unwrap_or_default();
            let literals = product.split('"').skip(1).step_by(2);
            names.extend(
                literals.filter(|literal| is_ours(literal) && words(literal).count() == 1).map(str::to_owned),
            );
        }
    }
    assert!(names.len() > 20, "the sources were not understood: {names:?}");
    names
}

/// Names that rules add.
fn recorded() -> BTreeSet<String> {
    each(&yaml("grafana/rules.yml"), "record").iter().map(text).collect()
}

/// Every value called `name`, at any depth.
pub(crate) fn each(value: &Value, name: &str) -> Vec<Value> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| if key == name { vec![value.clone()] } else { each(value, name) })
            .collect(),
        Value::Array(list) => list.iter().flat_map(|value| each(value, name)).collect(),
        _ => Vec::new(),
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

const COMPOSE: [&str; 2] = ["docker-compose.yml", "docker-compose.cluster.yml"];

#[test]
fn every_yaml_file_parses() {
    let mut all = files("grafana", ".yml");
    all.extend(COMPOSE.map(PathBuf::from));
    assert!(all.len() >= 7, "{all:?}");
    all.iter().for_each(|file| drop(yaml(file)));
}

#[test]
fn variables_of_telemetry_are_explained() {
    let page = read("docs/operations.md");
    for variable in host::telemetry::VARIABLES {
        assert!(page.contains(variable), "docs/operations.md does not explain {variable}");
    }
}

#[test]
fn every_figure_that_is_asked_for_is_told() {
    let mut known = instruments();
    known.extend(recorded());
    let mut queries: Vec<(String, String)> = Vec::new();
    for file in files("grafana/dashboards", ".json") {
        let board: Value = serde_json::from_str(&read(&file)).expect("is JSON");
        queries.extend(
            each(&board, "expr").iter().map(|expression| (file.display().to_string(), text(expression))),
        );
    }
    for file in ["grafana/rules.yml", "grafana/alerts.yml"] {
        queries
            .extend(each(&yaml(file), "expr").iter().map(|expression| (file.to_owned(), text(expression))));
    }
    assert!(queries.len() > 60, "{}", queries.len());
    for (file, query) in queries {
        for name in words(&query).filter(|word| is_ours(word)) {
            let bare =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(known.contains(name) || known.contains(bare), "{file}: nobody tells {name}\n{query}");
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let alerts = yaml("grafana/alerts.yml");
    let named: BTreeSet<PathBuf> =
        each(&alerts, "runbook_url").iter().map(|page| root().join(text(page))).collect();
    assert_eq!(named.len(), each(&alerts, "alert").len());
    let index = read("docs/runbooks/README.md");
    let mut there = BTreeSet::new();
    for page in files("docs/runbooks", ".md").into_iter().filter(|page| !page.ends_with("README.md")) {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(index.contains(&format!("]({name})")), "{name} is not in the index");
        // Some pages are for events that no figure shows.
        if !read(&page).contains("\nSeverity: none. No alert leads here.") {
            there.insert(page);
        }
    }
    assert_eq!(named, there);
}

#[test]
fn every_metric_is_explained() {
    let page = read("docs/metrics.md");
    let told: BTreeSet<&str> = words(&page).collect();
    let missing: Vec<_> = instruments().into_iter().filter(|name| !told.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "docs/metrics.md does not explain {missing:?}");
}

/// With MUSTER_UPDATE_DOCS set the page is written instead.
#[test]
fn the_page_of_settings_is_the_settings() {
    let tables = [
        ("control-plane", render_markdown::<control_plane::settings::ProcessConfig>()),
        ("edge-gateway", render_markdown::<edge_gateway::settings::ProcessConfig>()),
    ];
    let path = "docs/configuration.md";
    let mut page = read(path);
    for (program, table) in tables {
        let begin = format!("<!-- begin {program} -->\n");
        let end = format!("<!-- end {program} -->");
        let (before, rest) = page.split_once(&begin).expect("the page has a place for the table");
        let (_, after) = rest.split_once(&end).expect("the place has an end");
        page = format!("{before}{begin}\n{table}\n{end}{after}");
    }
    if std::env::var_os("MUSTER_UPDATE_DOCS").is_some() {
        std::fs::write(root().join(path), &page).expect("is written");
    }
    assert!(page == read(path), "{path} is stale; run this test with MUSTER_UPDATE_DOCS=1");
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let mut pages = files("docs", ".md");
    pages.extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name)));
    for page in pages {
        let content = read(&page);
        for link in content.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let folder = page.parent().expect("is in a folder");
            assert!(folder.join(target).exists(), "{}: {link}", page.display());
        }
    }
}
