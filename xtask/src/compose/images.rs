//! Images under the names in the compose file.
//!
//! The stages of the Dockerfile that run are taken as they are. Only its build stage, and the images that it
//! and the compose file take from elsewhere, are replaced: by a Debian made with debootstrap, the programs
//! that the workspace has built, etcd and NATS built from their Go modules, and Debian's HAProxy.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::engine::Engine;
use crate::pair;
use crate::run::{program, root, run};

const DEBIAN: &str = "muster-debian:12";
/// The line of the Dockerfile before which everything builds.
const RUNTIME: &str = "# No shell, no package manager";
const BASE: &str = "FROM gcr.io/distroless/cc-debian12:nonroot AS base";
const BUILD: Duration = Duration::from_secs(300);

/// Stands in for the images of other projects: target, Dockerfile lines, and the service in the compose file.
const OTHERS: [(&str, &str, &str); 3] = [
    ("etcd", "COPY etcd etcdctl /usr/local/bin/", "etcd"),
    ("nats", "COPY nats-server /usr/local/bin/\nENTRYPOINT [\"nats-server\"]", "nats"),
    (
        "haproxy",
        "CMD [\"haproxy\", \"-W\", \"-db\", \"-f\", \"/usr/local/etc/haproxy/haproxy.cfg\"]",
        "load-balancer",
    ),
];

/// Makes all images. Those of Debian are made once, and ours each time.
pub(super) fn make(engine: &Engine, work: &Path) -> Result<()> {
    debian(engine, work)?;
    let file = std::fs::read_to_string(root().join("docker-compose.yml")).context("docker-compose.yml")?;
    let context = work.join("others");
    std::fs::create_dir_all(&context)?;
    let etcd = pair::built("etcd", &pair::ETCD, pair::ETCD_VERSION)?;
    let nats = pair::built("nats", &pair::NATS, pair::NATS_VERSION)?;
    for built in [etcd.join("etcd"), etcd.join("etcdctl"), nats.join("nats-server")] {
        std::fs::copy(&built, context.join(built.file_name().unwrap_or_default()))?;
    }
    let mut lines = format!("FROM {DEBIAN} AS tools\nRUN ln -sf /bin/busybox /usr/bin/wget\n");
    for (target, rest, _) in OTHERS {
        lines += &format!("FROM tools AS {target}\n{rest}\n");
    }
    std::fs::write(context.join("Dockerfile"), lines)?;
    for (target, _, service) in OTHERS {
        let image = image_of(&file, service).with_context(|| format!("{service} has no image"))?;
        build(engine, &context, target, image)?;
    }
    ours(engine, work)
}

/// The image that the compose file gives to a service.
fn image_of<'a>(file: &'a str, service: &str) -> Option<&'a str> {
    let (_, after) = file.split_once(&format!("\n  {service}:\n"))?;
    after.lines().find_map(|line| line.trim().strip_prefix("image: "))
}

fn ours(engine: &Engine, work: &Path) -> Result<()> {
    let context = work.join("ours");
    std::fs::create_dir_all(context.join("out"))?;
    for name in ["control-plane", "edge-gateway", "muster"] {
        let copy = context.join("out").join(name);
        std::fs::copy(program(name), &copy)?;
        // The tables for debuggers are ten times as large as the program.
        run(Command::new("strip").arg(&copy))?;
    }
    let file = std::fs::read_to_string(root().join("Dockerfile")).context("Dockerfile")?;
    std::fs::write(context.join("Dockerfile"), runtime_stages(&file)?)?;
    for name in ["control-plane", "edge-gateway", "muster"] {
        build(engine, &context, name, &format!("muster/{name}"))?;
    }
    Ok(())
}

/// The Dockerfile with another build stage and another base, and otherwise as it is.
fn runtime_stages(file: &str) -> Result<String> {
    let (_, stages) = file.split_once(RUNTIME).context("the Dockerfile has another form")?;
    ensure!(stages.contains(BASE), "the Dockerfile has another base");
    let stages = stages.replace(BASE, &format!("FROM {DEBIAN} AS base\nUSER 65532:65532"));
    Ok(format!(
        "FROM {DEBIAN} AS build\nCOPY out /out\n\
         RUN mkdir -p /data /site/control-plane /site/edge-gateway /site/grafana /site/demo\n\
         {RUNTIME}{stages}"
    ))
}

/// Makes the Debian that stands in for every base, unless the engine has it.
fn debian(engine: &Engine, work: &Path) -> Result<()> {
    if engine.docker(&["image", "inspect", DEBIAN]).is_ok() {
        return Ok(());
    }
    let archive = work.join("debian.tar");
    if !archive.is_file() {
        let tree = tempfile::tempdir_in(work).context("a directory for Debian")?;
        run(Command::new("debootstrap")
            .args(["--variant=minbase", "--include=busybox,ca-certificates,haproxy", "bookworm"])
            .arg(tree.path()))?;
        let partial = work.join("debian.partial");
        run(Command::new("tar")
            .arg("-C")
            .arg(tree.path())
            .args(["--exclude=./var/cache", "--exclude=./proc", "--exclude=./sys", "-cf"])
            .arg(&partial)
            .arg("."))?;
        std::fs::rename(&partial, &archive)?;
    }
    engine.docker_within(&["import", &archive.display().to_string(), DEBIAN], BUILD).map(drop)
}

fn build(engine: &Engine, context: &Path, target: &str, image: &str) -> Result<()> {
    eprintln!("==> docker build --target {target} -t {image}");
    let context = context.display().to_string();
    engine.docker_within(&["build", "-q", "--target", target, "-t", image, &context], BUILD).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_and_the_compose_file_have_the_known_form() {
        let file = std::fs::read_to_string(root().join("Dockerfile")).expect("the file");
        let stages = runtime_stages(&file).expect("the known form");
        for stage in ["AS control-plane\n", "AS edge-gateway\n", "AS muster\n"] {
            assert!(stages.contains(stage), "{stage}");
        }
        assert!(!stages.contains("rust:"), "the build stage is replaced");
        let compose = std::fs::read_to_string(root().join("docker-compose.yml")).expect("the file");
        for (_, _, service) in OTHERS {
            assert!(image_of(&compose, service).is_some(), "{service}");
        }
        let etcd = image_of(&compose, "etcd").unwrap_or_default();
        assert!(etcd.ends_with(pair::ETCD_VERSION), "{etcd}");
        let nats = image_of(&compose, "nats").unwrap_or_default();
        assert!(nats.contains(pair::NATS_VERSION.trim_start_matches('v')), "{nats}");
    }
}
