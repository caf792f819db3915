//! The real SDKs against both planes: the same libraries that applications link, driven through a gateway as
//! applications drive them (`tests/sdks`). They need Go or a JDK with Maven, and fetch the libraries from
//! their package registries; so they run by `cargo xtask sdks`, not with the other tests.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use harness::World;
use tokio::process::Command;

/// Fetching and compiling included; a program that hangs is ended.
const PATIENCE: Duration = Duration::from_mins(9);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go; run by cargo xtask sdks"]
async fn sc_client_notices_nothing_but_speed() {
    let world = World::with().planes(2).gateways(2).start().await;
    check("sc-client", &["go", "run", ".", &world.gateways[0].api.to_string()], &world).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Go; run by cargo xtask sdks"]
async fn a_go_chassis_consumer_calls_the_instances_there_are() {
    let world = World::with().planes(2).gateways(2).start().await;
    check("go-chassis", &["go", "run", ".", "check"], &world).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a JDK and Maven; run by cargo xtask sdks"]
async fn the_java_client_notices_nothing_but_speed() {
    let world = World::with().planes(2).gateways(2).start().await;
    let address = format!("-Dexec.args={}", world.gateways[0].api);
    check("service-center-client", &["mvn", "-q", "-B", "compile", "exec:java", &address], &world).await;
}

/// Runs a program of `tests/sdks` and expects that it ends well; its lines are shown.
async fn check(sdk: &str, command: &[&str], world: &World) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdks").join(sdk);
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .env("REGISTRY", world.gateways[0].api.to_string())
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{} is needed and cannot be started: {error}", command[0]));
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
    let status =
        ended.unwrap_or_else(|_| panic!("{sdk} did not end within {PATIENCE:?}")).expect("its status");
    assert!(status.success(), "{sdk} saw something else than expected: {status}");
}
