//! The compose files and images, compared with the programs: files, settings, ports, secrets, bounds.

use std::collections::BTreeSet;
use std::path::PathBuf;

use harness::process::Process;
use serde_json::Value;
use settings::render_markdown;

use super::{COMPOSE, each, files, read, root, text, words, yaml};

fn services(compose: &Value) -> Vec<(String, Value)> {
    let services = compose["services"].as_object().expect("has services");
    services.iter().map(|(name, service)| (name.clone(), service.clone())).collect()
}

/// The environment variables of a program, from the table of its settings.
fn variables(image: &str) -> BTreeSet<String> {
    let table = match image {
        "muster/control-plane" => render_markdown::<control_plane::settings::ProcessConfig>(),
        "muster/edge-gateway" => render_markdown::<edge_gateway::settings::ProcessConfig>(),
        "muster/muster" => "MUSTER_SERVER MUSTER_DOMAIN MUSTER_PROJECT MUSTER_CREDENTIALS".to_owned(),
        other => panic!("who is {other}?"),
    };
    let telemetry = host::telemetry::VARIABLES.map(str::to_owned);
    words(&table).filter(|word| word.starts_with("MUSTER_")).map(str::to_owned).chain(telemetry).collect()
}

#[test]
fn files_that_compose_mounts_and_targets_that_it_builds_exist() {
    let dockerfile = read("Dockerfile");
    for file in COMPOSE {
        for (name, service) in services(&yaml(file)) {
            for volume in service["volumes"].as_array().into_iter().flatten().map(text) {
                let source = volume.split(':').next().unwrap_or_default().to_owned();
                assert!(
                    !source.starts_with("./") || root().join(&source).exists(),
                    "{file}: {name}: {source}"
                );
            }
            if let Some(target) = service["build"]["target"].as_str() {
                assert!(dockerfile.contains(&format!(" AS {target}\n")), "{file}: {name}: {target}");
            }
        }
    }
}

#[test]
fn variables_that_containers_get_are_settings_of_their_programs() {
    let base = yaml(COMPOSE[0]);
    for file in COMPOSE {
        for (name, service) in services(&yaml(file)) {
            let image = service["image"].as_str().or_else(|| base["services"][&name]["image"].as_str());
            let Some(image) = image.filter(|image| image.starts_with("muster/")) else { continue };
            let known = variables(image);
            for variable in service["environment"].as_object().into_iter().flatten().map(|(name, _)| name) {
                assert!(known.contains(variable), "{file}: {name} sets {variable}");
            }
        }
    }
    for part in read("Dockerfile").split(" AS ").skip(1) {
        let image =
            format!("muster/{}", words(&part.replace('-', "_")).next().unwrap_or_default().replace('_', "-"));
        let set: Vec<_> = part
            .lines()
            .filter_map(|line| line.strip_prefix("ENV "))
            .flat_map(|line| line.split(' ').filter_map(|flag| flag.split_once('=')))
            .map(|(name, _)| name.to_owned())
            .filter(|name| name.starts_with("MUSTER_"))
            .collect();
        if image == "muster/muster" {
            assert_eq!(set, ["MUSTER_LISTEN", "MUSTER_DATA_DIR"]);
        } else {
            set.iter().for_each(|variable| {
                assert!(variables(&image).contains(variable), "{image} sets {variable}")
            });
        }
    }
}

#[test]
fn ports_agree() {
    let dockerfile = read("Dockerfile");
    let probes = dockerfile.matches("http://127.0.0.1:30101/ready").count();
    assert_eq!((probes, dockerfile.matches("MUSTER_ADMIN_LISTEN=0.0.0.0:30101").count()), (2, 2));
    let balancer = read("deploy/haproxy.cfg");
    for line in ["bind :30100", "check port 30101", "edge-gateway:30100", "bind :8404"] {
        assert!(balancer.contains(line), "haproxy.cfg lacks `{line}`");
    }
    let compose = yaml(COMPOSE[0]);
    let hosts: BTreeSet<String> = services(&compose).into_iter().map(|(name, _)| name).collect();
    let scrape = yaml("grafana/prometheus.yml");
    for target in
        each(&scrape, "targets").iter().flat_map(|list| list.as_array().cloned().unwrap_or_default())
    {
        let (host, port) =
            text(&target).split_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).expect("has a port");
        assert!(hosts.contains(&host), "{host} is scraped and not there");
        let expected = match host.as_str() {
            "etcd" => "2379",
            "load-balancer" => "8404",
            _ => "30101",
        };
        assert_eq!(port, expected, "{host}");
    }
    let gateways = text(&compose["services"]["edge-gateway"]["environment"]["MUSTER_CONTROL_PLANE"]);
    for url in gateways.split(',') {
        let host = url.trim_start_matches("http://").trim_end_matches(":30100");
        assert!(hosts.contains(host), "{url} is forwarded to and not there");
    }
}

#[test]
fn balancers_leave_a_gateway_that_vanished_after_a_second() {
    for file in ["deploy/haproxy.cfg", "docs/proxies.md"] {
        let text = read(file);
        for line in ["timeout connect 1s", "option redispatch 1"] {
            assert!(text.contains(line), "{file} lacks `{line}`");
        }
    }
    let proxies = read("docs/proxies.md");
    for line in ["proxy_connect_timeout 1s", "connect_timeout: 1s"] {
        assert!(proxies.contains(line), "proxies.md lacks `{line}`");
    }
}

#[test]
fn telemetry_goes_where_someone_listens() {
    let compose = yaml(COMPOSE[0]);
    let hosts: BTreeSet<String> = services(&compose).into_iter().map(|(name, _)| name).collect();
    let collector = yaml("deploy/otel-collector.yml");
    let listening: Vec<String> = each(&collector["receivers"], "endpoint").iter().map(text).collect();
    for name in ["control-plane-1", "control-plane-2", "edge-gateway"] {
        let endpoint = text(&compose["services"][name]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]);
        let (host, port) = endpoint.trim_start_matches("http://").split_once(':').expect("has a port");
        assert!(hosts.contains(host), "{name} sends to {host}, which is not there");
        assert!(
            listening.contains(&format!("0.0.0.0:{port}")),
            "nobody listens on {endpoint}: {listening:?}"
        );
    }
    let passed_on = each(&collector["exporters"], "endpoint");
    assert!(!passed_on.is_empty());
    for target in passed_on.iter().map(text) {
        let host = target.split(':').next().unwrap_or_default();
        assert!(hosts.contains(host), "the collector sends to {host}, which is not there");
    }
    let pipelines = collector["service"]["pipelines"].as_object().expect("has pipelines");
    for (name, pipeline) in pipelines {
        for part in ["receivers", "processors", "exporters"] {
            for used in pipeline[part].as_array().into_iter().flatten().map(text) {
                assert!(
                    collector[part].get(&used).is_some(),
                    "{name} uses {part} {used}, which is not there"
                );
            }
        }
    }
    for file in files("grafana/provisioning/datasources", ".yml") {
        for url in each(&yaml(&file), "url").iter().map(text) {
            let host = url.trim_start_matches("http://").split(':').next().unwrap_or_default().to_owned();
            assert!(hosts.contains(&host), "{}: {url}", file.display());
        }
    }
}

#[test]
fn images_are_pinned() {
    for file in COMPOSE {
        for (name, service) in services(&yaml(file)) {
            let Some(image) = service["image"].as_str().filter(|image| !image.starts_with("muster/")) else {
                continue;
            };
            let version = image.rsplit_once(':').map_or("", |(_, version)| version);
            assert!(version.contains('.') && version != "latest", "{file}: {name}: {image}");
        }
    }
}

/// The default of `${NAME:-default}` in a text.
fn default_of(text: &str, name: &str) -> String {
    let (_, rest) = text.split_once(&format!("${{{name}:-")).unwrap_or_else(|| panic!("no {name} in {text}"));
    rest.split('}').next().unwrap_or_default().to_owned()
}

#[test]
fn compose_opens_no_port_to_the_network_unless_asked() {
    for file in COMPOSE {
        for (name, service) in services(&yaml(file)) {
            for port in service["ports"].as_array().into_iter().flatten().map(text) {
                let is_local =
                    port.starts_with("127.0.0.1:") || port.starts_with("${MUSTER_BIND:-127.0.0.1}:");
                assert!(is_local, "{file}: {name}: {port}");
            }
        }
    }
}

#[test]
fn limits_on_files_fit_the_connections_and_can_be_set() {
    let compose = yaml(COMPOSE[0]);
    let mut files = usize::MAX;
    for name in ["edge-gateway", "load-balancer"] {
        let limits = &compose["services"][name]["ulimits"]["nofile"];
        for limit in ["soft", "hard"] {
            // An engine whose own hard limit is lower cannot start the container, so it is a variable.
            let default = default_of(&text(&limits[limit]), "MUSTER_NOFILE");
            files = files.min(default.parse().expect("is a number"));
        }
    }
    let watchers = &compose["services"]["edge-gateway"]["environment"]["MUSTER_WATCH_PER_NODE"];
    let watchers = default_of(&text(watchers), "MUSTER_WATCH_PER_NODE");
    assert!(watchers.parse::<usize>().expect("is a number") + 1000 <= files);
    let maxconn = &compose["services"]["load-balancer"]["environment"]["MUSTER_MAXCONN"];
    let maxconn = default_of(&text(maxconn), "MUSTER_MAXCONN");
    assert!(read("deploy/haproxy.cfg").contains(&format!("maxconn \"${{MUSTER_MAXCONN-{maxconn}}}\"")));
    assert!(2 * maxconn.parse::<usize>().expect("is a number") + 1000 <= files);
}

/// Containers that do one thing and end.
const ONCE: [&str; 3] = ["init", "run-init-first", "demo-login"];

/// The volumes of secrets, and the containers that may read each. `init` fills them, and the check reads
/// them.
const SECRETS: [(&str, &[&str]); 4] = [
    ("control-plane-secrets", &["control-plane-1", "control-plane-2", "demo-login"]),
    ("edge-gateway-secrets", &["edge-gateway"]),
    ("grafana-secrets", &["grafana"]),
    ("demo-credentials", &["demo-login", "demo-provider", "demo-load"]),
];

/// The mounts of a container as source, target and mode.
fn mounts(service: &Value) -> Vec<(String, String, String)> {
    let volumes = service["volumes"].as_array().into_iter().flatten().map(text);
    volumes
        .map(|volume| {
            let mut parts = volume.split(':').map(str::to_owned);
            let mut part = || parts.next().unwrap_or_default();
            (part(), part(), part())
        })
        .collect()
}

#[test]
fn nothing_that_is_shipped_lets_anonymous_clients_in() {
    let mut shipped: Vec<PathBuf> = COMPOSE.map(PathBuf::from).into();
    shipped.extend(["Dockerfile", "deploy/helm/muster/values.yaml"].map(PathBuf::from));
    shipped.extend(files("grafana/provisioning", ".yml"));
    for file in shipped {
        let content = read(&file);
        for word in ["ALLOW_ANONYMOUS", "allow-anonymous", "AUTH_ANONYMOUS"] {
            assert!(!content.contains(word), "{}: {word}", file.display());
        }
    }
    let compose = yaml(COMPOSE[0]);
    for name in ["control-plane-1", "control-plane-2", "edge-gateway"] {
        let environment = &compose["services"][name]["environment"];
        assert_eq!(environment["MUSTER_RBAC_ENABLE"], "true", "{name}");
        assert_eq!(environment["MUSTER_NATS_SIGNING_KEYS"], "/secrets/signing-keys", "{name}");
    }
    let grafana = &compose["services"]["grafana"]["environment"];
    assert_eq!(grafana["GF_SECURITY_ADMIN_PASSWORD__FILE"], "/secrets/grafana-password");
}

#[test]
fn every_secret_of_a_container_is_a_file() {
    let secret = |name: &str| ["PASSWORD", "TOKEN", "SECRET", "_KEY"].iter().any(|word| name.contains(word));
    for file in COMPOSE {
        for (name, service) in services(&yaml(file)) {
            let environment = service["environment"].as_object().into_iter().flatten();
            for (variable, value) in environment.filter(|(variable, _)| secret(variable)) {
                let path = text(value);
                let path = path.strip_prefix('@').unwrap_or(&path);
                assert!(path.starts_with("/secrets/"), "{file}: {name}: {variable} is {value}");
                let names_a_file = ["__FILE", "_KEY", "_KEYS"].iter().any(|end| variable.ends_with(end));
                assert!(
                    names_a_file || text(value).starts_with('@'),
                    "{file}: {name}: {variable} is {value}"
                );
            }
        }
    }
}

#[test]
fn containers_read_their_own_secrets_and_wait_for_them() {
    let compose = yaml(COMPOSE[0]);
    for (name, service) in services(&compose) {
        for (source, _, mode) in mounts(&service) {
            let Some((_, readers)) = SECRETS.iter().find(|(volume, _)| *volume == source) else { continue };
            let writes = name == "init" || (name == "demo-login" && source == "demo-credentials");
            assert_eq!(mode, if writes { "" } else { "ro" }, "{name}: {source}");
            if ["init", "run-init-first"].contains(&name.as_str()) {
                continue;
            }
            assert!(readers.contains(&name.as_str()), "{name} can read {source}");
            // The programs of the demo come after gateways, which have waited.
            let waits =
                service["depends_on"]["run-init-first"]["condition"] == "service_completed_successfully";
            assert!(waits || name.starts_with("demo-"), "{name} does not wait for the secrets");
        }
    }
    for (volume, _) in SECRETS {
        assert!(compose["volumes"].as_object().is_some_and(|all| all.contains_key(volume)), "{volume}");
    }
}

#[test]
fn init_makes_the_files_that_containers_read() {
    let compose = yaml(COMPOSE[0]);
    let site = tempfile::tempdir().expect("a directory");
    let arguments = |service: &str| -> Vec<String> {
        let command = compose["services"][service]["command"].as_array().expect("has a command");
        let place = site.path().display().to_string();
        command.iter().map(|word| text(word).replace("/site", &place)).collect()
    };
    let run = |service: &str| {
        let arguments = arguments(service);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Process::ours("muster").output_of(&arguments)
    };
    let refusal = run("run-init-first");
    assert!(refusal.lines().count() == 1 && refusal.contains("docker compose run --rm init"), "{refusal}");
    let made = run("init");
    assert!(made.contains("Password of root, shown only now: "), "{made}");
    assert_eq!(run("run-init-first"), "muster: the secrets of this site are there\n");

    let filled = mounts(&compose["services"]["init"]);
    let dockerfile = read("Dockerfile");
    for (name, service) in services(&compose) {
        let environment = service["environment"].as_object().into_iter().flatten();
        for path in environment.map(|(_, value)| plain(value)).filter(|value| value.contains("/secrets/")) {
            let read = mounts(&service).into_iter().find(|(_, target, _)| target == "/secrets");
            let (volume, _, _) = read.unwrap_or_else(|| panic!("{name} has no secrets"));
            let (_, place, _) =
                filled.iter().find(|(source, _, _)| *source == volume).expect("init fills all");
            // A volume takes its owner over from the image, or `init` could not write.
            assert!(dockerfile.contains(&format!("{place} ")), "the image has no {place}");
            let file = path.trim_start_matches('@').trim_start_matches("/secrets/");
            let made = site.path().join(place.trim_start_matches("/site/")).join(file);
            assert!(made.is_file(), "{name} reads {path}, and {} is not made", made.display());
        }
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whose images have nothing to ask with; nobody waits for them.
const UNASKED: [&str; 2] = ["otel-collector", "jaeger"];

#[test]
fn containers_are_bounded_watched_and_started_again() {
    let base = yaml(COMPOSE[0]);
    let dockerfile = read("Dockerfile");
    for file in COMPOSE {
        for (name, service) in services(&yaml(file)) {
            // Compose merges the files: the second one states only the differences.
            let mut merged = base["services"][&name].as_object().cloned().unwrap_or_default();
            merged.extend(service.as_object().cloned().unwrap_or_default());
            let service = Value::Object(merged);
            let once = ONCE.contains(&name.as_str());
            assert_eq!(service["restart"], if once { "no" } else { "unless-stopped" }, "{file}: {name}");
            let limits = &service["deploy"]["resources"]["limits"];
            assert!(limits["cpus"].is_string() && limits["memory"].is_string(), "{file}: {name}: {limits}");
            let ours = service["image"].as_str().is_some_and(|image| image.starts_with("muster/"));
            let asked = service["healthcheck"].is_object() || (ours && dockerfile.contains("HEALTHCHECK"));
            assert!(asked || UNASKED.contains(&&*name), "{file}: {name} has no health check");
        }
    }
    let gateway = &base["services"]["edge-gateway"];
    let memory = &gateway["deploy"]["resources"]["limits"]["memory"];
    // Watchers and unread answers together stay below the limit.
    let own = ["MUSTER_WATCH_MEMORY", "MUSTER_HTTP_ANSWER_MEMORY"].map(|name| &gateway["environment"][name]);
    assert_eq!((memory, own), (&"1G".into(), [&"800MiB".into(), &"64MiB".into()]));
}
