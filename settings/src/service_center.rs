//! Service-Center's own settings, for who moves from it: the keys of its `app.yaml`, and its environment variables.
//!
//! In: a YAML text, the environment. Out: values under our keys, and a note for each setting that has no
//! counterpart. Empty means absent, as there. Never a mistake for what merely does nothing here: an
//! operator's compose file should start.

use std::collections::BTreeMap;

use serde_json::Value;

/// What Service-Center's settings say, in our words.
#[derive(Clone, Debug, Default)]
pub(super) struct Translated {
    pub(super) values: BTreeMap<&'static str, Foreign>,
    pub(super) notes: Vec<String>,
}

/// A value and where it came from.
#[derive(Clone, Debug)]
pub(super) struct Foreign {
    pub(super) text: String,
    pub(super) name: String,
    pub(super) ambient: bool,
}

/// How a value is written here.
#[derive(Clone, Copy)]
enum As {
    /// As it is.
    Same,
    /// In lower case; `fatal` is an error.
    Level,
    /// A number of bytes.
    Bytes,
    /// A duration of whole seconds, as a number.
    Seconds,
    /// `name=url` or `url`, separated by commas.
    Members,
}

use As::{Bytes, Level, Members, Same, Seconds};

/// Their key, the variables by which it is known besides its own name, our key, and how the value is written.
const LIVING: [(&str, &[&str], &str, As); 21] = [
    ("environment", &[], "registry.environment", Same),
    ("server.request.maxHeaderBytes", &[], "http.header-bytes", Bytes),
    ("server.request.maxBodyBytes", &[], "http.body-bytes", Bytes),
    ("server.request.headerTimeout", &[], "http.header-timeout", Same),
    ("server.response.timeout", &[], "http.write-timeout", Same),
    ("server.idle.timeout", &[], "http.idle-timeout", Same),
    ("log.level", &["LOG_LEVEL"], "log.level", Level),
    ("log.format", &["LOG_FORMAT"], "log.format", Same),
    ("registry.etcd.cluster.endpoints", &["REGISTRY_ETCD_CLUSTER_ENDPOINTS"], "etcd.endpoints", Members),
    ("registry.etcd.request.timeout", &["REGISTRY_ETCD_REQUEST_TIMEOUT"], "etcd.timeout", Same),
    ("registry.service.globalVisible", &["CSE_SHARED_SERVICES"], "registry.shared-services", Same),
    ("registry.instance.endpoint", &["REGISTRY_INSTANCE_ENDPOINT"], "advertise", Same),
    ("registry.instance.ttl", &["INSTANCE_TTL", "REGISTRY_INSTANCE_TTL"], "registry.instance-ttl", Same),
    ("registry.instance.minInterval", &[], "registry.instance-min-interval", Seconds),
    ("registry.instance.minTimes", &[], "registry.instance-min-times", Same),
    ("registry.instance.datacenter.name", &[], "data-center.name", Same),
    ("registry.instance.datacenter.region", &[], "data-center.region", Same),
    ("registry.instance.datacenter.availableZone", &[], "data-center.zone", Same),
    ("quota.cap.service.limit", &["QUOTA_SERVICE"], "quota.services", Same),
    ("quota.cap.instance.limit", &["QUOTA_INSTANCE"], "quota.instances", Same),
    ("quota.cap.schema.limit", &["QUOTA_SCHEMA"], "quota.schemas", Same),
];

/// What the gateway is told that has a key of its own there.
const PING: (&str, &str) = ("heartbeat.websocket.pingInterval", "heartbeat.websocket-ping-interval");

/// Settings without a counterpart, by the beginning of their key, the variables that mean them, and why.
const DEAD: [(&str, &[&str], &str); 22] = [
    ("server.request.timeout", &[], "a body has the time that its client keeps sending"),
    ("server.limit", &[], "it did nothing there either; see http.connections"),
    ("server.rpc", &[], "gRPC is served beside REST, on `listen`"),
    ("server.turbo", &[], "there is one server, which needs no other mode"),
    ("server.pprof", &[], "profiles are taken from outside"),
    ("gov", &[], "governance rules are kept in the registry's own store"),
    (
        "log",
        &["LOG_FILE", "SC_ACCESS_LOG_FILE"],
        "lines go to standard error; who runs the process keeps them",
    ),
    ("cipher", &["CIPHER_ROOT"], "a secret may stand in a file of its own: @PATH"),
    ("ssl", &["SSL_ROOT"], "name the PEM files in `tls.certificate`, `tls.key` and `tls.client-ca`"),
    ("plugin", &[], "there are no plug-ins"),
    ("registry.kind", &["REGISTRY_KIND"], "the control plane uses etcd, `muster standalone` a file"),
    ("registry.cache", &["CACHE_TTL"], "the view is always in memory and follows the store"),
    ("registry.etcd", &[], "etcd compacts and finds its members by itself"),
    ("registry.mongo", &["TEST_DB_URI"], "there is no MongoDB here"),
    (
        "registry",
        &[
            "SERVICE_CLEAR_ENABLED",
            "SERVICE_CLEAR_INTERVAL",
            "SERVICE_TTL",
            "SCHEMA_DISABLE",
            "SCHEMA_EDITABLE",
        ],
        "nothing is removed or refused on a timer",
    ),
    ("discovery", &[], "there is one source of services: the store"),
    ("metrics", &[], "metrics are always served, on the admin port"),
    (
        "tracing",
        &["TRACING_COLLECTOR", "TRACING_SERVER_ADDRESS", "TRACING_FILE_PATH", "TRACING_SIMPLER_RATE"],
        "traces follow the standard OTEL_* variables",
    ),
    (
        "quota",
        &["QUOTA_TAG", "QUOTA_ACCOUNT", "QUOTA_ROLE", "QUOTA_RULE"],
        "see `quota.*` for what is limited here",
    ),
    ("uuid", &[], "ids are derived from the service's key, as with `context`"),
    ("heartbeat", &[], "heartbeats go to the store's leases"),
    ("syncer", &[], "a registry spans what its etcd spans"),
];

impl Translated {
    /// This, and what `stronger` says instead.
    pub(super) fn below(mut self, stronger: Self) -> Self {
        self.values.extend(stronger.values);
        self.notes.extend(stronger.notes);
        self
    }

    fn take(&mut self, key: &'static str, text: &str, how: As, name: String, ambient: bool) {
        let text = written(text.trim(), how);
        self.values.insert(key, Foreign { text, name, ambient });
    }

    fn listen(&mut self, host: Option<String>, port: Option<String>, name: String, ambient: bool) {
        if host.is_none() && port.is_none() {
            return;
        }
        let (host, port) =
            (host.unwrap_or_else(|| "127.0.0.1".into()), port.unwrap_or_else(|| "30100".into()));
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        self.take("listen", &format!("{host}:{port}"), Same, name, ambient);
    }
}

/// What the environment says in Service-Center's words.
pub(super) fn variables(lookup: impl Fn(&str) -> Option<String>) -> Translated {
    let present = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
    let mut found = Translated::default();
    for (_, names, key, how) in LIVING {
        if let Some((name, value)) = names.iter().find_map(|name| Some((name, present(name)?))) {
            found.take(key, &value, how, (*name).to_owned(), true);
        }
    }
    found.listen(present("SERVER_HOST"), present("SERVER_PORT"), "SERVER_HOST and SERVER_PORT".into(), true);
    for (_, names, why) in DEAD {
        for name in names.iter().filter(|name| present(name).is_some()) {
            found.notes.push(format!("{name} has no effect: {why}"));
        }
    }
    found
}

/// What a file says in Service-Center's words.
///
/// # Errors
/// When it is no YAML, in words.
pub(super) fn file(name: &str, text: &str) -> Result<Translated, String> {
    let tree: Value = serde_saphyr::from_str(text).map_err(|e| format!("this is not YAML: {e}"))?;
    let mut leaves = BTreeMap::new();
    flatten(String::new(), &tree, &mut leaves);
    let mut found = Translated::default();
    let called = |key: &str| format!("{name}: {key}");
    found.listen(
        leaves.remove("server.host"),
        leaves.remove("server.port"),
        called("server.host, server.port"),
        false,
    );
    let ping = (PING.0, &[][..], PING.1, Same);
    for (theirs, _, ours, how) in LIVING.iter().copied().chain([ping]) {
        if let Some(value) = leaves.remove(theirs) {
            found.take(ours, &value, how, called(theirs), false);
        }
    }
    for key in leaves.keys() {
        let dead = DEAD.iter().find(|(head, ..)| {
            key.strip_prefix(head).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let why = dead.map_or("there is nothing like it here", |(.., why)| why);
        found.notes.push(format!("{} has no effect: {why}", called(key)));
    }
    Ok(found)
}

/// Every value that is not empty, under its whole key.
fn flatten(key: String, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(key, value, leaves);
            }
        }
        Value::Null => {}
        Value::Array(entries) if entries.is_empty() => {}
        Value::String(text) if text.trim().is_empty() => {}
        Value::String(text) => drop(leaves.insert(key, text.clone())),
        other => drop(leaves.insert(key, other.to_string())),
    }
}

fn written(text: &str, how: As) -> String {
    match how {
        Same => text.to_owned(),
        Level if text.eq_ignore_ascii_case("fatal") => "error".to_owned(),
        Level => text.to_ascii_lowercase(),
        Bytes if text.bytes().all(|b| b.is_ascii_digit()) => format!("{text}B"),
        Bytes => text.to_owned(),
        Seconds => {
            humantime::parse_duration(text).map_or_else(|_| text.to_owned(), |it| it.as_secs().to_string())
        }
        Members => {
            let member = |it: &str| match it.split_once('=') {
                Some((name, url)) if !name.contains("://") => url.trim().to_owned(),
                _ => it.trim().to_owned(),
            };
            text.split(',').map(member).collect::<Vec<_>>().join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = "
environment: dev
server:
  host: 10.0.0.7
  port: 30100
  request:
    maxBodyBytes: 2097152
  limit:
    connections: 0
log:
  level: WARN
  file: ./service-center.log
registry:
  kind: etcd
  etcd:
    cluster:
      endpoints: sc-0=http://10.0.0.1:2379,http://10.0.0.2:2379
  instance:
    ttl:
    minInterval: 5s
quota:
  cap:
    service:
      limit: 10
rbac:
  enable: false
";

    #[test]
    fn a_file_of_service_center_is_understood() {
        let found = file("app.yaml", SHIPPED).expect("is YAML");
        let text = |key: &str| found.values.get(key).map(|it| it.text.as_str());
        assert_eq!(text("listen"), Some("10.0.0.7:30100"));
        assert_eq!(text("http.body-bytes"), Some("2097152B"));
        assert_eq!(text("log.level"), Some("warn"));
        assert_eq!(text("etcd.endpoints"), Some("http://10.0.0.1:2379,http://10.0.0.2:2379"));
        assert_eq!(text("registry.instance-min-interval"), Some("5"));
        assert_eq!(text("registry.instance-ttl"), None, "empty is absent");
        assert_eq!(text("quota.services"), Some("10"));
    }

    #[test]
    fn each_dead_setting_is_told_once() {
        let notes = file("app.yaml", SHIPPED).expect("is YAML").notes;
        for key in ["server.limit.connections", "log.file", "registry.kind", "rbac.enable"] {
            assert_eq!(
                notes.iter().filter(|it| it.contains(&format!("app.yaml: {key} "))).count(),
                1,
                "{notes:?}"
            );
        }
        assert_eq!(notes.len(), 4, "{notes:?}");
        let notes = variables(|name| (name == "SSL_ROOT").then(|| "/etc/ssl".to_owned())).notes;
        assert!(notes.len() == 1 && notes[0].contains("tls.certificate"), "{notes:?}");
    }

    #[test]
    fn variables_of_service_center_are_understood() {
        let given = [
            ("SERVER_HOST", "::"),
            ("LOG_LEVEL", "FATAL"),
            ("CSE_SHARED_SERVICES", "a,b"),
            ("QUOTA_SERVICE", ""),
        ];
        let found = variables(|name| given.iter().find(|it| it.0 == name).map(|it| it.1.to_owned()));
        assert_eq!(found.values["listen"].text, "[::]:30100");
        assert_eq!(found.values["log.level"].text, "error");
        assert_eq!(found.values["registry.shared-services"].text, "a,b");
        assert!(!found.values.contains_key("quota.services"));
    }
}
