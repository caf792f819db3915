//! The settings of Service-Center, so that its `app.yaml` and its environment variables can be kept
//! in a migration.
//!
//! In: a YAML text, the environment. Out: values under our keys, and a note for each setting that has no
//! counterpart. An empty value is absent, as in Service-Center. A setting without a counterpart is never a
//! mistake: the compose file of an operator who migrates should start as it is.

use std::collections::BTreeMap;

use serde_json::Value;

/// Settings of Service-Center, translated to our keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Translated {
    pub(super) values: BTreeMap<&'static str, TranslatedValue>,
    pub(super) notes: Vec<String>,
}

/// A value in our notation, with its origin.
#[derive(Clone, Debug)]
pub(super) struct TranslatedValue {
    pub(super) text: String,
    /// The variable, or the file and the key, for messages.
    pub(super) name: String,
    /// The value came from the environment, where it may be meant for another program.
    pub(super) ambient: bool,
}

/// The difference between Service-Center's notation of a value and ours.
#[derive(Clone, Copy)]
enum Notation {
    /// Not at all.
    Same,
    /// Levels are in lower case, and `fatal` becomes `error`.
    Level,
    /// A bare number of bytes gets the unit `B`.
    Bytes,
    /// A duration becomes its number of whole seconds.
    Seconds,
    /// A list of `name=url` loses the names.
    Members,
}

use Notation::{Bytes, Level, Members, Same, Seconds};

/// Service-Center's key, the variables that set it too, our key, and the notation.
const TRANSLATIONS: [(&str, &[&str], &str, Notation); 31] = [
    ("environment", &[], "registry.environment", Same),
    ("server.request.maxHeaderBytes", &[], "http.header-bytes", Bytes),
    ("server.request.maxBodyBytes", &[], "http.body-bytes", Bytes),
    ("server.request.headerTimeout", &[], "http.header-timeout", Same),
    ("server.request.timeout", &[], "http.body-timeout", Same),
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
    ("quota.cap.account.limit", &["QUOTA_ACCOUNT"], "quota.accounts", Same),
    ("quota.cap.role.limit", &["QUOTA_ROLE"], "quota.roles", Same),
    ("rbac.enable", &[], "rbac.enable", Same),
    ("rbac.privateKeyFile", &[], "rbac.private-key", Same),
    ("rbac.publicKeyFile", &[], "rbac.public-key", Same),
    ("rbac.scope", &[], "rbac.scope", Same),
    ("rbac.releaseLockAfter", &[], "rbac.release-lock-after", Same),
    ("rbac.retainLockHistoryFor", &[], "rbac.retain-lock-history-for", Same),
    // Service-Center has no key for it, only the variable.
    ("rbac.rootPassword", &["SC_INIT_ROOT_PASSWORD"], "rbac.root-password", Same),
];

/// The one translated setting that only gateways have.
const PING: (&str, &str) = ("heartbeat.websocket.pingInterval", "heartbeat.websocket-ping-interval");

/// Settings without a counterpart: the key or its first words, the variables, and the reason for the
/// operator. The first entry that fits a key is used, so longer keys come before the ones they begin with.
const WITHOUT_EFFECT: [(&str, &[&str], &str); 21] = [
    ("server.limit", &[], "it did nothing there either; see http.connections"),
    ("server.rpc", &[], "gRPC is served beside REST, on `listen`"),
    ("server.turbo", &[], "there is one server, which needs no other mode"),
    ("server.pprof", &[], "profiles are taken from outside"),
    ("gov", &[], "governance rules are kept in the registry's own store"),
    (
        "log",
        &["LOG_FILE", "SC_ACCESS_LOG_FILE"],
        "log lines go to standard error, for the service manager to keep",
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
    /// Merges two translations; on conflict `stronger` wins.
    pub(super) fn below(mut self, stronger: Self) -> Self {
        self.values.extend(stronger.values);
        self.notes.extend(stronger.notes);
        self
    }

    fn take(&mut self, key: &'static str, text: &str, notation: Notation, name: String, ambient: bool) {
        let text = in_our_notation(text.trim(), notation);
        self.values.insert(key, TranslatedValue { text, name, ambient });
    }

    fn listen(&mut self, host: Option<String>, port: Option<String>, name: String, ambient: bool) {
        if host.is_none() && port.is_none() {
            return;
        }
        // One of the two may be missing: the other keeps its meaning beside Service-Center's default.
        let host = host.unwrap_or_else(|| "127.0.0.1".into());
        let port = port.unwrap_or_else(|| "30100".into());
        // An IPv6 address needs brackets before a port. Service-Center's host comes without them.
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        self.take("listen", &format!("{host}:{port}"), Same, name, ambient);
    }
}

/// Translates Service-Center's environment variables.
pub(super) fn variables(lookup: impl Fn(&str) -> Option<String>) -> Translated {
    let present = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
    let mut found = Translated::default();
    for (_, names, key, notation) in TRANSLATIONS {
        if let Some((name, value)) = names.iter().find_map(|name| Some((name, present(name)?))) {
            found.take(key, &value, notation, (*name).to_owned(), true);
        }
    }
    found.listen(present("SERVER_HOST"), present("SERVER_PORT"), "SERVER_HOST and SERVER_PORT".into(), true);
    for (_, names, why) in WITHOUT_EFFECT {
        for name in names.iter().filter(|name| present(name).is_some()) {
            found.notes.push(format!("{name} has no effect: {why}"));
        }
    }
    found
}

/// Translates Service-Center's YAML file.
///
/// # Errors
/// The parser's message when the text is not YAML.
pub(super) fn file(name: &str, text: &str) -> Result<Translated, String> {
    let tree: Value = serde_saphyr::from_str(text).map_err(|e| format!("this is not YAML: {e}"))?;
    let mut leaves = BTreeMap::new();
    flatten(String::new(), &tree, &mut leaves);
    let mut found = Translated::default();
    // Every key that has been dealt with is removed. The rest gets a note below.
    let host = leaves.remove("server.host");
    let port = leaves.remove("server.port");
    found.listen(host, port, format!("{name}: server.host, server.port"), false);
    let ping = (PING.0, &[][..], PING.1, Same);
    for (theirs, _, ours, notation) in TRANSLATIONS.iter().copied().chain([ping]) {
        if let Some(value) = leaves.remove(theirs) {
            found.take(ours, &value, notation, format!("{name}: {theirs}"), false);
        }
    }
    for key in leaves.keys() {
        // Whole words only: `log` must not match `logging.level`.
        let entry = WITHOUT_EFFECT.iter().find(|(head, ..)| {
            key.strip_prefix(head).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let why = entry.map_or("there is nothing like it here", |(.., why)| why);
        found.notes.push(format!("{name}: {key} has no effect: {why}"));
    }
    Ok(found)
}

/// Puts every value that is not empty into `leaves` under its whole key, such as `server.host`.
fn flatten(key: String, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(key, value, leaves);
            }
        }
        // Service-Center's shipped file lists most keys with an empty value.
        Value::Null => {}
        Value::Array(entries) if entries.is_empty() => {}
        Value::String(text) if text.trim().is_empty() => {}
        Value::String(text) => drop(leaves.insert(key, text.clone())),
        other => drop(leaves.insert(key, other.to_string())),
    }
}

/// The value in our notation. A text that does not fit stays as it is: the parser of our setting will refuse
/// it, with a message that describes the expected form.
fn in_our_notation(text: &str, notation: Notation) -> String {
    match notation {
        Same => text.to_owned(),
        Level if text.eq_ignore_ascii_case("fatal") => "error".to_owned(),
        Level => text.to_ascii_lowercase(),
        Bytes if text.bytes().all(|b| b.is_ascii_digit()) => format!("{text}B"),
        Bytes => text.to_owned(),
        Seconds => match humantime::parse_duration(text) {
            Ok(duration) => duration.as_secs().to_string(),
            Err(_) => text.to_owned(),
        },
        Members => {
            let urls: Vec<&str> = text.split(',').map(url_of_member).collect();
            urls.join(",")
        }
    }
}

/// The URL of a cluster member, which is written `name=url` or `url`.
fn url_of_member(member: &str) -> &str {
    match member.split_once('=') {
        // An equals sign behind `://` belongs to the URL.
        Some((name, url)) if !name.contains("://") => url.trim(),
        _ => member.trim(),
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
        let text = |key: &str| found.values.get(key).map(|value| value.text.as_str());
        assert_eq!(text("listen"), Some("10.0.0.7:30100"));
        assert_eq!(text("http.body-bytes"), Some("2097152B"));
        assert_eq!(text("log.level"), Some("warn"));
        assert_eq!(text("etcd.endpoints"), Some("http://10.0.0.1:2379,http://10.0.0.2:2379"));
        assert_eq!(text("registry.instance-min-interval"), Some("5"));
        assert_eq!(text("registry.instance-ttl"), None, "empty is absent");
        assert_eq!(text("quota.services"), Some("10"));
        assert_eq!(text("rbac.enable"), Some("false"));
    }

    #[test]
    fn each_setting_without_effect_has_one_note() {
        let notes = file("app.yaml", SHIPPED).expect("is YAML").notes;
        for key in ["server.limit.connections", "log.file", "registry.kind"] {
            assert_eq!(
                notes.iter().filter(|note| note.contains(&format!("app.yaml: {key} "))).count(),
                1,
                "{notes:?}"
            );
        }
        assert_eq!(notes.len(), 3, "{notes:?}");
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
        let found = variables(|name| {
            given.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
        });
        assert_eq!(found.values["listen"].text, "[::]:30100");
        assert_eq!(found.values["log.level"].text, "error");
        assert_eq!(found.values["registry.shared-services"].text, "a,b");
        assert!(!found.values.contains_key("quota.services"));
    }
}
