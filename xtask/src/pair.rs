//! A pair of servers other than the installed one: fetched by their module versions and built with Go, so
//! that the system tests can run on the servers that people run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::run::{root, run};
use crate::tests;

/// The programs of etcd and the modules that they are built from. They exist from 3.5 on.
pub(crate) const ETCD: [(&str, &str); 3] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("etcdctl", "go.etcd.io/etcd/etcdctl/v3"),
    ("etcdutl", "go.etcd.io/etcd/etcdutl/v3"),
];
/// The program of NATS and its module.
pub(crate) const NATS: [(&str, &str); 1] = [("nats-server", "github.com/nats-io/nats-server/v2")];

/// The newest releases that the system tests and fault cases were run on.
pub const ETCD_VERSION: &str = "v3.7.3";
/// As [`ETCD_VERSION`].
pub const NATS_VERSION: &str = "v2.15.3";

/// A pair, and the tests to run on it.
#[derive(Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    etcd: &'a str,
    nats: &'a str,
    /// Only tests whose names contain this. Without it all system tests run, and then the fault cases.
    filter: Option<&'a str>,
}

impl<'a> Pair<'a> {
    /// Reads `[--etcd VERSION] [--nats VERSION] [FILTER]`.
    ///
    /// # Errors
    /// When an argument is not one of these, or a version is not one of a release.
    pub fn parse(mut arguments: &[&'a str]) -> Result<Self> {
        let mut pair = Self { etcd: ETCD_VERSION, nats: NATS_VERSION, filter: None };
        while let [first, rest @ ..] = arguments {
            arguments = match (*first, rest) {
                ("--etcd", [version, rest @ ..]) => {
                    pair.etcd = release(version)?;
                    rest
                }
                ("--nats", [version, rest @ ..]) => {
                    pair.nats = release(version)?;
                    rest
                }
                (option, _) if option.starts_with('-') => {
                    bail!("`{option}`: expected --etcd VERSION or --nats VERSION")
                }
                (filter, []) => {
                    pair.filter = Some(filter);
                    &[]
                }
                _ => bail!("at most one FILTER, and at the end"),
            };
        }
        Ok(pair)
    }

    /// Fetches and builds the servers if they are not there yet, and runs the tests on them.
    ///
    /// # Errors
    /// When Go is missing, a version does not exist, or a test fails.
    pub fn test(&self) -> Result<()> {
        let etcd = built("etcd", &ETCD, self.etcd)?;
        let nats = built("nats", &NATS, self.nats)?;
        let installed = std::env::var_os("PATH").unwrap_or_default();
        // Before the installed ones: tests and the commands that they run take the first that they find.
        let directories = [etcd.clone(), nats.clone()].into_iter().chain(std::env::split_paths(&installed));
        let path = std::env::join_paths(directories).context("the search path cannot be extended")?;
        run(Command::new(etcd.join("etcd")).arg("--version"))?;
        run(Command::new(nats.join("nats-server")).arg("--version"))?;
        match self.filter {
            Some(filter) => tests::on_path(&path, &["test", filter]),
            None => {
                tests::on_path(&path, &["test", "--system"])?;
                tests::on_path(&path, &["faults"])
            }
        }
    }
}

/// A version such as `v3.7.3`. It becomes a part of paths and of arguments.
fn release(text: &str) -> Result<&str> {
    let numbers = text.strip_prefix('v').unwrap_or_default();
    let is_release = numbers.split('.').count() == 3
        && numbers
            .split(['.', '-'])
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()));
    ensure!(is_release, "`{text}`: expected the version of a release, such as {ETCD_VERSION}");
    Ok(text)
}

/// The directory with these programs, built from their modules of this version.
pub(crate) fn built(name: &str, programs: &[(&str, &str)], version: &str) -> Result<PathBuf> {
    let directory = root().join("target/servers").join(format!("{name}-{version}"));
    for (program, module) in programs {
        let file = directory.join(program);
        if !file.is_file() {
            build(module, version, &file).with_context(|| format!("{program} {version} cannot be built"))?;
        }
    }
    Ok(directory)
}

/// Builds the program of a module. A module of our own requires it, because `go install MODULE@VERSION`
/// refuses modules with replacements, as etcd's are.
fn build(module: &str, version: &str, file: &Path) -> Result<()> {
    let work = tempfile::tempdir().context("a directory for the build")?;
    let go = |arguments: &[&OsString]| {
        let mut command = Command::new("go");
        command.args(arguments).current_dir(work.path());
        run(&mut command)
    };
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let make = words(&["mod", "init", "muster.invalid/servers"]);
    go(&make.iter().collect::<Vec<_>>()).context("Go is needed to build servers")?;
    let get = words(&["get", &format!("{module}@{version}")]);
    go(&get.iter().collect::<Vec<_>>())?;
    let mut build = words(&["build", "-trimpath", "-o"]);
    build.push(file.as_os_str().to_owned());
    build.push(module.into());
    go(&build.iter().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests_of_arguments {
    use super::*;

    #[test]
    fn arguments_name_a_pair_and_what_to_run() {
        let pair = Pair::parse(&["--nats", "v2.9.25", "store_faults::"]).expect("is right");
        assert_eq!(pair, Pair { etcd: ETCD_VERSION, nats: "v2.9.25", filter: Some("store_faults::") });
        for wrong in
            [&["--etcd", "3.6.5"][..], &["--etcd", "v3"], &["--etcd"], &["a", "b"], &["--etcd", "v3.6.5/.."]]
        {
            assert!(Pair::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
