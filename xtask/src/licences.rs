//! Dependencies: licences, sources and duplicate versions, by the rules of `deny.toml`.
//!
//! This check reads the part of the file that needs no network, so that it runs wherever the build does.
//! cargo-deny reads the same file; see [`crate::advisories`] for the part that needs a network.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::console;
use crate::run::{cargo, root};

#[derive(Deserialize)]
struct Rules {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skip>,
}

/// An old version that is accepted beside a newer one.
#[derive(Deserialize)]
struct Skip {
    #[serde(rename = "crate")]
    version: String,
    reason: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

/// The packages that are built. `Metadata::packages` also lists those that only unused features would need.
#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// Checks every dependency.
///
/// # Errors
/// All violations in one text.
pub fn check() -> Result<()> {
    let rules = std::fs::read_to_string(root().join("deny.toml")).context("deny.toml cannot be read")?;
    let rules: Rules = toml::from_str(&rules).context("deny.toml")?;
    let mut violations = BTreeSet::new();
    let mut used = BTreeSet::new();
    for target in &rules.graph.targets {
        let packages = packages(target)?;
        for package in &packages {
            violations.extend(
                judge(package, &rules).map(|why| format!("{} {}: {why}", package.name, package.version)),
            );
        }
        let registries: BTreeSet<_> =
            packages.iter().filter_map(|package| package.source.as_deref()).collect();
        if registries.len() > 1 {
            violations.insert(format!("several sources: {registries:?}"));
        }
        violations.extend(duplicates(&packages, &rules.bans.skip, &mut used));
    }
    for skip in &rules.bans.skip {
        if skip.reason.is_empty() {
            violations.insert(format!("{}: accepted in deny.toml without a reason", skip.version));
        }
        if !used.contains(skip.version.as_str()) {
            violations.insert(format!("{}: accepted in deny.toml, but no longer a dependency", skip.version));
        }
    }
    let all: Vec<_> = violations.into_iter().collect();
    ensure!(all.is_empty(), "dependencies against the rules of deny.toml:\n  {}", all.join("\n  "));
    console::licences(&rules.licenses.allow)?;
    eprintln!("==> dependencies keep the rules of deny.toml");
    Ok(())
}

fn packages(target: &str) -> Result<Vec<Package>> {
    let mut command = cargo(&["metadata", "--locked", "--format-version", "1", "--filter-platform", target]);
    let output = command.stderr(std::process::Stdio::inherit()).output().context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata failed");
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("the answer of cargo metadata")?;
    let built: BTreeSet<_> = metadata.resolve.nodes.into_iter().map(|node| node.id).collect();
    Ok(metadata.packages.into_iter().filter(|package| built.contains(&package.id)).collect())
}

/// The reason for which a package may not be used, if there is one.
fn judge(package: &Package, rules: &Rules) -> Option<String> {
    // A package without a source is one of ours.
    let source = package.source.as_deref()?;
    if !source.starts_with("registry+") {
        return Some(format!("comes from {source}"));
    }
    let Some(licence) = &package.license else { return Some("names no licence".into()) };
    (!is_allowed(licence, &rules.licenses.allow)).then(|| format!("has the licence {licence}"))
}

fn duplicates<'a>(packages: &[Package], skips: &'a [Skip], used: &mut BTreeSet<&'a str>) -> Vec<String> {
    let mut versions = BTreeMap::<&str, Vec<&str>>::new();
    for package in packages {
        versions.entry(&package.name).or_default().push(&package.version);
    }
    let mut found = Vec::new();
    for (name, versions) in versions.into_iter().filter(|(_, versions)| versions.len() > 1) {
        let mut others = Vec::new();
        for version in versions {
            match skips.iter().find(|skip| skip.version == format!("{name}@{version}")) {
                Some(skip) => _ = used.insert(skip.version.as_str()),
                None => others.push(version),
            }
        }
        if others.len() > 1 {
            found.push(format!("{name}: several versions: {}", others.join(", ")));
        }
    }
    found
}

/// Evaluates an SPDX expression: `AND` binds more than `OR`, `/` is an old way to write `OR`.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let result = any_of(&mut words, allowed);
    result && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut result = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        result |= all_of(words, allowed);
    }
    result
}

fn all_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut result = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        result &= one(words, allowed);
    }
    result
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let result = any_of(words, allowed);
        return words.next() == Some(")") && result;
    }
    let Some(mut licence) = words.next().map(String::from) else { return false };
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_spdx_means_them() {
        let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(String::from);
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "GPL-3.0/MIT",
            "(GPL-3.0 OR MIT) AND ISC",
            "MIT OR GPL-3.0 AND GPL-2.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(is_allowed(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT", "MIT MIT", "GPL-3.0 WITH x"] {
            assert!(!is_allowed(bad, &allowed), "{bad}");
        }
    }
}
