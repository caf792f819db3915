//! The rooms of the house: no two of them may need each other.
//!
//! A *room* is a top-level module of a crate. ARCHITECTURE promises that a room knows the type that comes in
//! and the type that goes out, never the room before or after it. Imports in a circle would break that
//! promise, so this check reads the sources of every library and program of the workspace and refuses such
//! circles. Inside a room a parent and its children may know each other; only the number of files in one
//! circle is bounded.
//!
//! The crate's root (`lib.rs` or `main.rs`) is the map and not a room. What it exports is followed to the
//! room that declares it. Unit tests do not count: a test may reach for anything.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::run::{cargo, root};

mod graph;
mod reader;
#[cfg(test)]
mod tests;

use graph::Graph;
use reader::Import;

/// The most files that may import each other in one circle. A module and the files of its `impl` blocks form
/// such a circle naturally; beyond this number nobody can read one of them alone.
const MAX_FILES_IN_A_CIRCLE: usize = 10;

/// Checks all libraries and programs of the workspace.
///
/// # Errors
/// All circles in one text, with one import for each of their edges.
pub fn check() -> Result<()> {
    let mut complaints = String::new();
    for target in targets()? {
        let imports = reader::read(&target.src_path)
            .with_context(|| format!("the sources of {} cannot be read", target.name))?;
        complaints.push_str(&judge(&target.name, &imports));
    }
    ensure!(complaints.is_empty(), "modules import each other in circles:\n{complaints}");
    eprintln!("==> no two rooms need each other");
    Ok(())
}

/// Returns the description of every forbidden circle of one crate; empty when there is none.
fn judge(name: &str, imports: &[Import]) -> String {
    let mut complaints = String::new();
    let rooms = between_rooms(imports);
    for circle in rooms.circles() {
        let title = format!("{name}: these rooms need each other: {}", circle.join(", "));
        describe(&mut complaints, &title, &rooms, &circle);
    }
    let files = between_files(imports);
    for circle in files.circles().iter().filter(|circle| circle.len() > MAX_FILES_IN_A_CIRCLE) {
        let size = circle.len();
        let title = format!("{name}: {size} files import each other, at most {MAX_FILES_IN_A_CIRCLE} may");
        describe(&mut complaints, &title, &files, circle);
    }
    complaints
}

fn describe(text: &mut String, title: &str, graph: &Graph<Import>, circle: &[String]) {
    // Writing to a string cannot fail.
    _ = writeln!(text, "  {title}");
    for (from, to, imports) in graph.edges_within(circle) {
        let Some(first) = imports.first() else { continue };
        let file = first.file.strip_prefix(root()).unwrap_or(&first.file).display();
        let more = match imports.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        _ = writeln!(text, "    {from} -> {to}: {file}:{}: {}{more}", first.line, first.path);
    }
}

fn between_rooms(imports: &[Import]) -> Graph<Import> {
    let mut graph = Graph::default();
    for import in imports {
        // The root has no room: its first segment is missing.
        if let (Some(from), Some(to)) = (import.from.first(), import.to.first()) {
            graph.add(from, to, import.clone());
        }
    }
    graph
}

fn between_files(imports: &[Import]) -> Graph<Import> {
    let mut graph = Graph::default();
    for import in imports {
        graph.add(&shown(&import.from), &shown(&import.to), import.clone());
    }
    graph
}

fn shown(module: &[String]) -> String {
    if module.is_empty() { "crate".into() } else { module.join("::") }
}

/// A library or a program of the workspace.
#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct WorkspaceMetadata {
    packages: Vec<WorkspacePackage>,
}

#[derive(Deserialize)]
struct WorkspacePackage {
    targets: Vec<Target>,
}

/// Asks cargo for the targets, so that a new crate is checked from its first day.
fn targets() -> Result<Vec<Target>> {
    let mut command = cargo(&["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let output = command.stderr(std::process::Stdio::inherit()).output().context("cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: WorkspaceMetadata =
        serde_json::from_slice(&output.stdout).context("the output of cargo metadata")?;
    let all = metadata.packages.into_iter().flat_map(|package| package.targets);
    Ok(all.filter(|target| target.kind.iter().any(|kind| kind == "lib" || kind == "bin")).collect())
}
