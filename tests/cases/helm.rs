//! The Helm chart, held against the programs without helm: it renders to YAML with any switch on or off, and
//! what it sets, opens and asks exists.
//!
//! Renders the few things that our templates use, and refuses everything else.

use std::collections::BTreeSet;

use serde_json::Value;
use settings::render_markdown;

use crate::deploy::{each, files, read, text, words, yaml};

const CHART: &str = "deploy/helm/muster";

/// The value at `.Values.a.b` or `.Release.Name`.
fn look_up(path: &str, values: &Value) -> Value {
    if path == ".Release.Name" {
        return Value::from("prod");
    }
    let keys = path.strip_prefix(".Values.").unwrap_or_else(|| panic!("`{path}` is not understood"));
    keys.split('.').fold(values.clone(), |value, key| {
        value.get(key).unwrap_or_else(|| panic!("values.yaml has no {path}")).clone()
    })
}

/// A key that is made when the chart is installed.
const GENERATED: &str = "\"a private key\"";

fn random(length: &str) -> Value {
    Value::from("x".repeat(length.parse().expect("a number")))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_set(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false))
        && value.as_str() != Some("")
        && value.as_i64() != Some(0)
}

/// Replaces an expression between `{{` and `}}`.
fn expression(source: &str, values: &Value) -> String {
    match source.split_whitespace().collect::<Vec<_>>()[..] {
        ["genPrivateKey", "\"rsa\"", "|", "quote"] => GENERATED.to_owned(),
        ["randAlphaNum", length, "|", "quote"] => random(length).to_string(),
        ["printf", format, "(randAlphaNum", length, "|", "quote"] => {
            let length = length.trim_end_matches(')');
            format.replace("%s", random(length).as_str().unwrap_or_default())
        }
        [path] => plain(&look_up(path, values)),
        [path, "|", "quote"] => Value::from(plain(&look_up(path, values))).to_string(),
        ["add", path, number] => {
            let number: i64 = number.parse().expect("a number");
            (look_up(path, values).as_i64().unwrap_or_else(|| panic!("{path} is no number")) + number)
                .to_string()
        }
        _ => panic!("`{source}` is not understood"),
    }
}

fn render(template: &str, values: &Value) -> String {
    let mut rendered = String::new();
    // One entry for each open condition: true when it holds.
    let mut open: Vec<bool> = Vec::new();
    for line in template.lines() {
        let control = line.trim().strip_prefix("{{- ").and_then(|text| text.strip_suffix(" }}"));
        match control.map(|text| text.split_whitespace().collect::<Vec<_>>()).as_deref() {
            // As in a cluster that has no such secret yet.
            Some(["if", "not", "(lookup", ..]) => open.push(true),
            Some(["if", "not", path]) => open.push(!is_set(&look_up(path, values))),
            Some(["if", path]) => open.push(is_set(&look_up(path, values))),
            Some(["end"]) => drop(open.pop().expect("an end has a beginning")),
            Some(other) => panic!("{other:?} is not understood"),
            None if open.contains(&false) => {}
            None => {
                let mut rest = line;
                while let Some((before, after)) = rest.split_once("{{ ") {
                    let (source, after) = after.split_once(" }}").expect("what opens closes");
                    rendered.push_str(before);
                    rendered.push_str(&expression(source, values));
                    rest = after;
                }
                rendered.push_str(rest);
                rendered.push('\n');
            }
        }
    }
    assert!(open.is_empty(), "a condition is not closed");
    rendered
}

/// Every object of the chart.
fn objects(values: &Value) -> Vec<Value> {
    let templates = files(&format!("{CHART}/templates"), ".yaml");
    assert!(templates.len() >= 4, "{templates:?}");
    let rendered = templates.iter().map(|file| render(&read(file), values)).collect::<Vec<_>>();
    let documents = rendered.iter().flat_map(|file| file.split("\n---\n"));
    documents
        .filter(|text| !text.trim().is_empty())
        .map(|text| {
            serde_saphyr::from_str(text.trim_start_matches("---\n")).unwrap_or_else(|e| panic!("{e}\n{text}"))
        })
        .collect()
}

fn values() -> Value {
    yaml(format!("{CHART}/values.yaml"))
}

/// With everything switched on.
fn everything() -> Value {
    let mut values = values();
    for path in [
        "/etcd/secret",
        "/nats/secret",
        "/nats/gatewaySecret",
        "/nats/signingSecret",
        "/tls/secret",
        "/access/secret",
        "/edgeGateway/dns/account",
    ] {
        *values.pointer_mut(path).expect("is a value") = Value::from("a-secret");
    }
    for path in [
        "/edgeGateway/autoscaling/enabled",
        "/edgeGateway/dns/enabled",
        "/monitoring/enabled",
        "/networkPolicy/enabled",
    ] {
        *values.pointer_mut(path).expect("is a value") = Value::from(true);
    }
    values
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn it_renders_with_its_defaults_and_with_everything_on() {
    let usual = kinds(&objects(&values()));
    assert_eq!(
        usual,
        BTreeSet::from(["Deployment", "PodDisruptionBudget", "Secret", "Service"].map(str::to_owned))
    );
    let all = kinds(&objects(&everything()));
    for kind in ["HorizontalPodAutoscaler", "NetworkPolicy", "ServiceMonitor"] {
        assert!(all.contains(kind), "{all:?}");
    }
    assert_eq!(replicas_of_gateway(&objects(&values())), 2);
    // The autoscaler owns the number; a Deployment that states one would reset it with every upgrade.
    assert_eq!(replicas_of_gateway(&objects(&everything())), Value::Null);
}

fn kinds(objects: &[Value]) -> BTreeSet<String> {
    objects.iter().map(|object| text(&object["kind"])).collect()
}

fn replicas_of_gateway(objects: &[Value]) -> Value {
    let deployments = of_kind(objects, "Deployment");
    let gateway = deployments.iter().find(|object| object["metadata"]["name"] == "prod-edge-gateway");
    gateway.expect("is there")["spec"]["replicas"].clone()
}

#[test]
fn containers_get_settings_and_probes_that_exist() {
    for deployment in of_kind(&objects(&everything()), "Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let name = text(&container["name"]);
        let table = match name.as_str() {
            "control-plane" => render_markdown::<control_plane::settings::ProcessConfig>(),
            "edge-gateway" => render_markdown::<edge_gateway::settings::ProcessConfig>(),
            other => panic!("who is {other}?"),
        };
        let known: BTreeSet<&str> = words(&table).collect();
        let set: Vec<(String, Value)> = container["env"]
            .as_array()
            .expect("has an environment")
            .iter()
            .map(|variable| (text(&variable["name"]), variable["value"].clone()))
            .collect();
        set.iter().for_each(|(name, _)| assert!(known.contains(name.as_str()), "{name} has no {name}"));
        // The values are ones that the program takes. Those that name a file in a secret are not: the file
        // is there only in a pod.
        let literal = set.iter().filter(|(name, value)| {
            value.is_string()
                && !["_TLS_", "_SIGNING_", "_ROOT_PASSWORD"].iter().any(|part| name.contains(part))
        });
        let sources = literal.fold(settings::Sources::default(), |sources, (name, value)| {
            sources.with_variable(name, text(value))
        });
        let mistakes = match name.as_str() {
            "control-plane" => settings::parse::<control_plane::settings::ProcessConfig>(&sources).err(),
            _ => settings::parse::<edge_gateway::settings::ProcessConfig>(&sources).err(),
        };
        assert_eq!(mistakes, None);

        let image = text(&container["image"]);
        assert!(
            read("Dockerfile").contains(&format!(" AS {name}\n"))
                && image.starts_with(&format!("muster/{name}:"))
        );
        let ports: Vec<u64> =
            each(&container["ports"], "containerPort").iter().filter_map(Value::as_u64).collect();
        let is_gateway = name == "edge-gateway";
        let expected: &[u64] = if is_gateway { &[30100, 30101, 5353, 5353] } else { &[30100, 30101] };
        assert_eq!(ports, expected);
        for (probe, path) in [("livenessProbe", "/live"), ("readinessProbe", "/ready")] {
            assert_eq!(
                (&container[probe]["httpGet"]["path"], &container[probe]["httpGet"]["port"]),
                (&path.into(), &"admin".into())
            );
        }
        let grace = set
            .iter()
            .find(|(name, _)| name == "MUSTER_GRACE")
            .map(|(_, value)| seconds(value))
            .expect("is set");
        let given = pod["terminationGracePeriodSeconds"].as_u64().expect("is set");
        let sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().expect("is set");
        assert!(given > grace + sleep, "{name}: {given} s for {grace} s and {sleep} s");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    }
}

#[test]
fn dns_is_off_and_tells_only_what_the_chart_says() {
    let names = |switches: &[(&str, Value)]| -> BTreeSet<String> {
        let mut values = values();
        for (path, value) in switches {
            *values.pointer_mut(&format!("/edgeGateway/dns/{path}")).expect("is a value") = value.clone();
        }
        let objects = objects(&values);
        let all = of_kind(&objects, "Deployment").into_iter().flat_map(|one| secrets_of(one).0);
        all.filter_map(|(name, _)| name.strip_prefix("MUSTER_DNS_").map(str::to_owned)).collect()
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let on = ("enabled", Value::from(true));
    assert_eq!(names(&[]), set(&[]));
    // The program then refuses to start with access control, and says why.
    assert_eq!(names(std::slice::from_ref(&on)), set(&["LISTEN", "DOMAIN"]));
    let account = ("account", Value::from("dns"));
    assert_eq!(names(&[on.clone(), account]), set(&["LISTEN", "DOMAIN", "ACCOUNT"]));
    assert_eq!(names(&[on, ("anonymous", Value::from(true))]), set(&["LISTEN", "DOMAIN", "ANONYMOUS"]));
}

#[test]
fn clients_are_told_that_the_gateways_speak_tls() {
    for (values, query) in [(values(), ""), (everything(), "?sslEnabled=true")] {
        let objects = objects(&values);
        let deployments = of_kind(&objects, "Deployment");
        let plane = deployments.iter().find(|object| object["metadata"]["name"] == "prod-control-plane");
        let environment = &plane.expect("is there")["spec"]["template"]["spec"]["containers"][0]["env"];
        let mut set = environment.as_array().expect("is a list").iter();
        let advertised = set.find(|variable| variable["name"] == "MUSTER_ADVERTISE").expect("is set");
        assert_eq!(advertised["value"], format!("prod-edge-gateway:30100{query}"));
    }
}

#[test]
fn each_plane_has_its_own_login_and_both_the_signing_keys() {
    for (own, secrets) in [("", ["of-planes", "of-planes"]), ("of-gateways", ["of-planes", "of-gateways"])] {
        let mut values = values();
        for (path, value) in
            [("/nats/secret", "of-planes"), ("/nats/gatewaySecret", own), ("/nats/signingSecret", "keys")]
        {
            *values.pointer_mut(path).expect("is a value") = Value::from(value);
        }
        let deployments = objects(&values);
        for (deployment, secret) in of_kind(&deployments, "Deployment").iter().zip(secrets) {
            let pod = &deployment["spec"]["template"]["spec"];
            let container = &pod["containers"][0];
            let logins = each(&container["env"], "secretKeyRef");
            let names: Vec<&Value> = logins.iter().map(|login| &login["name"]).collect();
            assert_eq!(names, [secret, secret], "{}", container["name"]);
            assert_eq!(pod["volumes"][0]["secret"]["secretName"], "keys");
            assert_eq!(container["volumeMounts"][0]["mountPath"], "/etc/muster/nats");
        }
    }
}

#[test]
fn a_gateway_keeps_its_state_in_a_volume_of_its_own() {
    for deployment in of_kind(&objects(&values()), "Deployment") {
        let pod = &deployment["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let is_gateway = container["name"] == "edge-gateway";
        let named =
            |list: &Value| list.as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "state"));
        assert_eq!((named(&pod["volumes"]), named(&container["volumeMounts"])), (is_gateway, is_gateway));
        let variables = container["env"].as_array().expect("has an environment");
        let file = variables.iter().find(|variable| variable["name"] == "MUSTER_EDGE_STATE_FILE");
        assert_eq!(
            file.map(|file| &file["value"]),
            is_gateway.then_some(&Value::from("/var/lib/muster/edge-state"))
        );
    }
}

type Variables = Vec<(String, Value)>;
type Mounts = Vec<(String, String)>;

/// The variables of a Deployment's container, and where its files come from: mount path and secret.
fn secrets_of(deployment: &Value) -> (Variables, Mounts) {
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let environment = container["env"].as_array().expect("has an environment").iter();
    let variables = environment.map(|one| (text(&one["name"]), one["value"].clone())).collect();
    // The state of a gateway is no secret of the chart's, and the one thing that a container writes.
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    let mounts = mounts.filter(|mount| mount["name"] != "state").map(|mount| {
        assert_eq!(mount["readOnly"], true, "{mount}");
        let volumes = pod["volumes"].as_array().expect("has volumes");
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).expect("is there");
        (text(&mount["mountPath"]), text(&volume["secret"]["secretName"]))
    });
    (variables, mounts.collect())
}

#[test]
fn the_chart_comes_up_with_access_control_on() {
    let objects = objects(&values());
    let made: BTreeSet<String> =
        of_kind(&objects, "Secret").iter().map(|secret| text(&secret["metadata"]["name"])).collect();
    for deployment in of_kind(&objects, "Deployment") {
        let name = text(&deployment["metadata"]["name"]);
        let (variables, mounts) = secrets_of(deployment);
        let value =
            |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, value)| text(value));
        assert_eq!(value("MUSTER_RBAC_ENABLE").as_deref(), Some("true"), "{name}");
        assert_eq!(value("MUSTER_ALLOW_ANONYMOUS"), None, "{name}");
        // Without keys of its own a site gets those that the chart makes.
        assert!(mounts.iter().all(|(_, secret)| made.contains(secret)), "{name}: {mounts:?}, {made:?}");
        let mut files = vec![("MUSTER_NATS_SIGNING_KEYS", "/etc/muster/nats/", "keys", "prod-signing")];
        if name == "prod-control-plane" {
            files.extend([
                ("MUSTER_RBAC_PRIVATE_KEY", "/etc/muster/access/", "private.key", "prod-access"),
                ("MUSTER_RBAC_ROOT_PASSWORD", "@/etc/muster/access/", "root-password", "prod-access"),
            ]);
        }
        assert_eq!(mounts.iter().map(|(_, secret)| secret).collect::<BTreeSet<_>>().len(), mounts.len());
        assert_eq!(mounts.len(), if name == "prod-control-plane" { 2 } else { 1 }, "{name}: {mounts:?}");
        for (variable, directory, key, secret) in files {
            assert_eq!(value(variable), Some(format!("{directory}{key}")), "{name}");
            let mount = (directory.trim_matches(['@', '/']), secret);
            assert!(mounts.iter().any(|(path, from)| (path.trim_matches('/'), from.as_str()) == mount));
            let secrets = of_kind(&objects, "Secret");
            let of_chart =
                secrets.iter().find(|object| object["metadata"]["name"] == secret).expect("is made");
            assert!(of_chart["stringData"][key].is_string(), "{secret} has no {key}");
            // Part of the release they would be made anew, or removed, with it.
            assert_eq!(of_chart["metadata"]["annotations"]["helm.sh/hook"], "pre-install,pre-upgrade");
        }
    }
}

#[test]
fn a_site_with_secrets_of_its_own_gets_none_made() {
    let objects = objects(&everything());
    assert!(of_kind(&objects, "Secret").is_empty());
    for deployment in of_kind(&objects, "Deployment") {
        assert!(secrets_of(deployment).1.iter().all(|(_, secret)| secret == "a-secret"));
    }
}

#[test]
fn the_chart_is_open_only_when_that_is_asked_for() {
    let mut values = values();
    *values.pointer_mut("/access/enabled").expect("is a value") = Value::from(false);
    for deployment in of_kind(&objects(&values), "Deployment") {
        let (variables, _) = secrets_of(deployment);
        let names: BTreeSet<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
        assert!(
            names.contains("MUSTER_ALLOW_ANONYMOUS") && !names.contains("MUSTER_RBAC_ENABLE"),
            "{names:?}"
        );
    }
}

#[test]
fn selectors_ports_and_metrics_lead_somewhere() {
    let objects = objects(&everything());
    let pods: Vec<Value> = of_kind(&objects, "Deployment")
        .iter()
        .map(|object| object["spec"]["template"]["metadata"]["labels"].clone())
        .collect();
    let selects = |labels: &Value| {
        let labels = labels.as_object().expect("has labels");
        pods.iter().any(|pod| labels.iter().all(|(name, value)| pod[name] == *value))
    };
    for kind in ["Deployment", "PodDisruptionBudget", "NetworkPolicy", "ServiceMonitor"] {
        for object in of_kind(&objects, kind) {
            for labels in each(object, "matchLabels") {
                assert!(
                    labels.get("kubernetes.io/metadata.name").is_some() || selects(&labels),
                    "{kind}: {labels}"
                );
            }
        }
    }
    for service in of_kind(&objects, "Service") {
        assert!(selects(&service["spec"]["selector"]));
        let is_dns = service["metadata"]["name"] == "prod-dns";
        let expected = if is_dns { ["dns", "dns-tcp"] } else { ["registry", "admin"] };
        assert_eq!(each(&service["spec"]["ports"], "targetPort"), expected);
    }
    let scaler = of_kind(&objects, "HorizontalPodAutoscaler")[0];
    let metric = text(&scaler["spec"]["metrics"][0]["pods"]["metric"]["name"]);
    assert!(read("docs/metrics.md").contains(&format!("| `{metric}` |")), "nobody tells {metric}");
}

fn seconds(value: &Value) -> u64 {
    humantime::parse_duration(&text(value)).expect("a duration").as_secs()
}
