//! The console: its committed bundle comes from its sources, and its pages work in a real browser.
//!
//! A Rust toolchain is enough to build and run Muster, because the bundle is committed. So the first check
//! needs Node and npm, and a network for the packages; where it cannot be made, that is said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::run::{root, run};
use crate::tests;

/// Licences that only the tools of the build may have: nothing of them is in what is shipped.
const TOOLS: [&str; 2] = ["MPL-2.0", "0BSD"];
/// The ways in which npm says that it reached no registry of packages.
const NO_NETWORK: [&str; 7] =
    ["ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "ENOTCACHED"];

/// The result of comparing the bundle with its sources.
#[derive(Debug, PartialEq, Eq)]
pub enum Bundle {
    /// It is what its sources make.
    Same,
    /// Nothing was compared, for this reason.
    Unchecked(&'static str),
}

#[derive(Deserialize)]
struct Lock {
    packages: BTreeMap<String, Package>,
}

#[derive(Deserialize)]
struct Package {
    license: Option<String>,
    #[serde(default)]
    dev: bool,
}

/// Tests the pure parts of the pages, builds the bundle from its sources and compares it with the committed
/// one.
///
/// # Errors
/// When a test fails, or the bundles differ.
pub fn check() -> Result<Bundle> {
    if !exists("npm") {
        return Ok(Bundle::Unchecked("Node and npm are not installed"));
    }
    if !install()? {
        return Ok(Bundle::Unchecked("the packages of the console cannot be fetched; is there a network?"));
    }
    for script in ["check", "test"] {
        run(npm(&["run", "--silent", script]).env("NO_COLOR", "1"))?;
    }
    let built = root().join("target/console-bundle");
    let out = ["run", "--silent", "build", "--", "--logLevel", "warn", "--emptyOutDir", "--outDir"];
    run(npm(&out).arg(&built))?;
    compare(&built, &root().join("console/bundle"))?;
    eprintln!("==> the console's bundle comes from its sources");
    Ok(Bundle::Same)
}

/// Builds the bundle that is committed.
///
/// # Errors
/// When npm is missing, or the build fails.
pub fn build() -> Result<()> {
    ensure!(install()?, "the packages of the console cannot be fetched");
    run(&mut npm(&["run", "--silent", "build"]))
}

/// True if there is a browser that can open the pages.
pub fn has_browser() -> bool {
    ["chromium", "chromium-browser", "google-chrome"].iter().any(|name| exists(name))
}

/// Opens every page in a browser, on a standalone registry and on a fleet with access control.
///
/// # Errors
/// When something is missing, or a page does not do what it should.
pub fn smoke(arguments: &[&str]) -> Result<()> {
    ensure!(
        has_browser(),
        "no browser is installed (on Debian, as root: apt-get install --no-install-recommends chromium)"
    );
    ensure!(install()?, "the packages of the console cannot be fetched");
    tests::prepare()?;
    run(npm(&["run", "--silent", "smoke", "--"]).args(arguments))
}

/// Checks the licences of the packages, by the rules for crates.
///
/// # Errors
/// All packages that may not be used, in one text.
pub fn licences(allowed: &[String]) -> Result<()> {
    let text = std::fs::read_to_string(web().join("package-lock.json")).context("package-lock.json")?;
    let lock: Lock = serde_json::from_str(&text).context("package-lock.json")?;
    let mut violations = BTreeSet::new();
    // The one without a name is the console itself.
    for (name, package) in lock.packages.iter().filter(|(name, _)| !name.is_empty()) {
        let licence = package.license.as_deref().unwrap_or("none");
        let is_tool = package.dev && TOOLS.contains(&licence);
        if !is_tool && !allowed.iter().any(|allowed| allowed == licence) {
            violations.insert(format!("{name} has the licence {licence}"));
        }
    }
    ensure!(violations.is_empty(), "packages of the console against the rules of deny.toml: {violations:?}");
    Ok(())
}

/// Installs the packages as the lock file names them. False if there is no network to fetch them from.
fn install() -> Result<bool> {
    let output = npm(&["ci", "--no-audit", "--no-fund", "--prefer-offline"])
        .output()
        .context("npm cannot be started")?;
    if output.status.success() {
        return Ok(true);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if NO_NETWORK.iter().any(|code| said.contains(code)) {
        return Ok(false);
    }
    bail!("npm ci failed in console/web:\n{said}");
}

fn compare(built: &Path, committed: &Path) -> Result<()> {
    let built = files(built)?;
    let committed = files(committed)?;
    let mut different = BTreeSet::new();
    for name in built.keys().chain(committed.keys()) {
        if built.get(name) != committed.get(name) {
            different.insert(name);
        }
    }
    ensure!(
        different.is_empty(),
        "these files of console/bundle are not what console/web makes: {different:?}; run `cargo xtask console build`"
    );
    Ok(())
}

fn files(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?);
    }
    Ok(files)
}

fn web() -> PathBuf {
    root().join("console/web")
}

fn npm(arguments: &[&str]) -> Command {
    let mut command = Command::new("npm");
    command.args(arguments).current_dir(web());
    command
}

fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn a_bundle_that_differs_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let [built, committed] = ["built", "committed"].map(|name| directory.path().join(name));
        for path in [&built, &committed] {
            std::fs::create_dir(path).expect("is made");
            std::fs::write(path.join("app.js"), "1").expect("is written");
        }
        compare(&built, &committed).expect("the same");
        std::fs::write(built.join("app.js"), "2").expect("is written");
        std::fs::write(committed.join("old.js"), "2").expect("is written");
        let text = compare(&built, &committed).expect_err("they differ").to_string();
        assert!(text.contains("app.js") && text.contains("old.js"), "{text}");
    }

    #[test]
    fn packages_keep_the_rules_for_licences() {
        let text = std::fs::read_to_string(root().join("deny.toml")).expect("is there");
        let rules: toml::Table = text.parse().expect("is TOML");
        let allowed: Vec<String> = rules["licenses"]["allow"].clone().try_into().expect("a list");
        licences(&allowed).expect("they do");
        licences(&[]).expect_err("Preact is shipped, and has a licence");
    }
}
