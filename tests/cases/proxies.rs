//! Real proxies with the settings of `docs/proxies.md`, before two gateways. Envoy is fetched from a package
//! registry; so this runs by `cargo xtask proxies`, not with the other tests.

use std::time::Duration;

use harness::World;
use tokio::time::sleep;

use crate::operate::muster;

use fleet::Fleet;
use page::{Mode, Program, Proxy};

mod fleet;
mod page;
mod vanished;

/// The most time for an answer while a gateway is gone: a second for the connection to it, and as much for the rest.
const SOON: Duration = Duration::from_secs(2);
/// The short times of the page, made shorter still, and the silence that outlasts them.
const SHORT: &str = "3s";
const SILENCE: Duration = Duration::from_secs(7);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask proxies"]
async fn haproxy_balances_tcp() {
    serves_as_the_page_says(Program::Haproxy, Mode::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask proxies"]
async fn haproxy_reads_http() {
    serves_as_the_page_says(Program::Haproxy, Mode::Http).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask proxies"]
async fn nginx_balances_tcp() {
    serves_as_the_page_says(Program::Nginx, Mode::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask proxies"]
async fn nginx_reads_http() {
    serves_as_the_page_says(Program::Nginx, Mode::Http).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask proxies"]
async fn envoy_balances_tcp() {
    serves_as_the_page_says(Program::Envoy, Mode::Tcp).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask proxies"]
async fn envoy_reads_http() {
    serves_as_the_page_says(Program::Envoy, Mode::Http).await;
}

async fn serves_as_the_page_says(program: Program, mode: Mode) {
    // Pings as often, compared with the times of the impatient proxy, as they are compared with the page's.
    let plan = World::with().gateways(2);
    let plan = plan.gateway_flag("--watch-ping-interval", "1s").gateway_flag("--http-http2-ping", "1s");
    let fleet = Fleet::of(plan.start().await).await;
    let gateways = fleet.gateways();
    let proxy = Proxy::start(program, mode, gateways, str::to_owned).await;
    println!("{}", proxy.version());
    fleet.finds_through(&proxy).await;
    fleet.watches_of(&proxy).await.are_pushed(&fleet).await;
    is_well(&proxy).await;
    if mode == Mode::Http {
        vanished::clients_are_named(program).await;
    }

    let impatient = |settings: &str| settings.replace("3m", SHORT).replace("180s", SHORT);
    let impatient = Proxy::start(program, mode, gateways, impatient).await;
    let watches = fleet.watches_of(&impatient).await;
    sleep(SILENCE).await;
    watches.are_pushed(&fleet).await;
    drop(impatient);

    // Here Envoy may choose the same gateway again before it has taken in what it learnt.
    let soon = if (program, mode) == (Program::Envoy, Mode::Tcp) { 2 * SOON } else { SOON };
    let nowhere = vanished::Nowhere::new().await;
    let halved = Proxy::start(program, mode, [nowhere.both(), gateways[1]], unchecked).await;
    let slowest = fleet.answers_within(&halved, soon).await;
    println!("  an address that answers nothing: every answer within {slowest:.1?}");
    let _held_there = fleet.many_watches_of(&halved).await;
    fleet.answers_within(&halved, soon).await;
    drop(halved);

    let _held = fleet.many_watches_of(&proxy).await;
    fleet.world.gateways[0].process.kill();
    let slowest = fleet.answers_within(&proxy, SOON).await;
    println!("  a gateway that was killed: every answer within {slowest:.1?}");
    fleet.watches_of(&proxy).await.are_pushed(&fleet).await;
}

/// The settings without the checks of Envoy, which are done before it listens, so that it knows the address.
fn unchecked(settings: &str) -> String {
    match settings.split_once("    health_checks:\n") {
        Some((before, rest)) => {
            let (_, after) = rest.split_once("    load_assignment:\n").expect("the gateways follow");
            format!("{before}    load_assignment:\n{after}")
        }
        None => settings.to_owned(),
    }
}

/// The doctor finds nothing, but for what the page says of nginx.
async fn is_well(proxy: &Proxy) {
    let (_, report) = muster(&["doctor", "--server", &format!("http://{}", proxy.front)]).await;
    let failed: Vec<&str> = report.lines().filter(|line| line.contains("  failed  ")).collect();
    let expected = usize::from(proxy.grpc != proxy.front);
    assert!(failed.len() == expected && failed.iter().all(|line| line.starts_with("xds")), "{report}");
    assert!(report.contains("header case  ok"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs packages; run by cargo xtask proxies"]
async fn the_doctor_names_a_proxy_that_writes_names_in_lower_case() {
    let fleet = Fleet::of(World::with().gateways(2).start().await).await;
    // One side of Envoy is enough to lose the case.
    for (program, line) in [
        (Program::Haproxy, "h1-case-adjust x-resource-revision"),
        (Program::Envoy, "header_key_format: *keep_case"),
    ] {
        let without = |settings: &str| {
            assert!(settings.contains(line), "the page has {line}");
            let kept = settings.lines().filter(|other| !other.contains(line));
            kept.collect::<Vec<_>>().join("\n") + "\n"
        };
        let proxy = Proxy::start(program, Mode::Http, fleet.gateways(), without).await;
        let server = format!("http://{}", proxy.front);
        let (status, report) = muster(&["doctor", "--server", &server, "--read-only"]).await;
        let line = report.lines().find(|line| line.starts_with("header case")).expect("it is checked");
        assert!(status == 1 && line.contains("failed") && line.contains("Java clients"), "{report}");
    }
}
