//! The records of DNS: made of a find as a gateway makes them of what it follows, so no address of a DNS
//! server is needed. The zone is the default one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ::dns::{DnsConfig, Origin, Stamp, Zone};
use serde_json::{Value, json};
use shared::event::Position;
use shared::model::{Instance, ServiceKey};

use super::{Choice, Told};
use crate::client::RegistryClient;
use crate::failure::CommandFailure;

const HEADS: [&str; 4] = ["NAME", "TTL", "TYPE", "DATA"];

/// Finds the service, and names it.
pub(super) async fn ask(registry: &RegistryClient, choice: Choice<'_>) -> Result<Told, CommandFailure> {
    let (Some(app), Some(service)) = (choice.app, choice.service) else {
        return Err(CommandFailure::Usage(
            "DNS tells of one service at a time: muster find --as dns --app APP --name NAME".to_owned(),
        ));
    };
    let env = choice.env.unwrap_or_default();
    let reply = registry
        .get(&["registry", "instances"])
        .query("appId", app)
        .query("serviceName", service)
        .query("env", env)
        .query("version", "0+")
        .send()
        .await?;
    let instances: Vec<Arc<Instance>> = reply.part("instances", registry)?;
    let key = ServiceKey {
        app_id: app.to_owned(),
        service_name: service.to_owned(),
        environment: env.to_owned(),
        ..ServiceKey::default()
    };
    Ok(Told { age: reply.age, ..told(&key, instances).map_err(CommandFailure::Usage)? })
}

/// A version of the service.
struct Known {
    key: ServiceKey,
    instances: Vec<Arc<Instance>>,
}

impl ::dns::Service for Known {
    fn key(&self) -> Option<&ServiceKey> {
        Some(&self.key)
    }

    fn stamp(&self) -> Stamp {
        Stamp { id: self.key.version.as_str().into(), at: Position::default(), digest: 0 }
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances.iter()
    }
}

fn told(key: &ServiceKey, instances: Vec<Arc<Instance>>) -> Result<Told, String> {
    let schemes = instances.iter().flat_map(|instance| &instance.endpoints);
    let schemes = schemes.filter_map(|endpoint| Some(endpoint.split_once("://")?.0.to_ascii_lowercase()));
    let protocols: BTreeSet<String> = schemes.collect();
    let mut versions = BTreeMap::<String, Vec<Arc<Instance>>>::new();
    for instance in instances {
        versions.entry(instance.version.clone()).or_default().push(instance);
    }
    let known: Vec<Known> = versions
        .into_iter()
        .map(|(version, instances)| Known { key: ServiceKey { version, ..key.clone() }, instances })
        .collect();
    let config = DnsConfig::default();
    let ttl = u32::try_from(config.ttl.as_secs()).unwrap_or(u32::MAX);
    let origin =
        Origin::new(&config.domain, ttl, IpAddr::V4(Ipv4Addr::UNSPECIFIED)).map_err(|e| e.to_string())?;
    let zone = Zone::new(Arc::new(origin), 0, &known, None);
    let protocols: Vec<&str> = protocols.iter().map(String::as_str).collect();
    let records = ::dns::records(zone, key, &protocols)?;
    let rows = records.iter().map(|record| {
        vec![record.name.clone(), record.ttl.to_string(), record.kind.clone(), record.data.clone()]
    });
    let body = records.iter().map(
        |record| json!({"name": record.name, "ttl": record.ttl, "type": record.kind, "data": record.data}),
    );
    Ok(Told { heads: &HEADS, rows: rows.collect(), body: Value::Array(body.collect()), age: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_shown_with_all_its_records() {
        let key = ServiceKey { app_id: "shop".into(), service_name: "order".into(), ..ServiceKey::default() };
        let instance = |id: &str, status: &str, endpoint: &str| {
            Arc::new(Instance {
                instance_id: id.into(),
                status: status.into(),
                endpoints: vec![endpoint.into()],
                version: "1.0.0".into(),
                ..Instance::default()
            })
        };
        let instances =
            vec![instance("a", "UP", "rest://10.0.0.1:80"), instance("b", "DOWN", "rest://10.0.0.2:80")];
        let rows: Vec<String> =
            told(&key, instances).expect("a name").rows.iter().map(|row| row.join(" ")).collect();
        for row in [
            "order.shop.muster. 5 A 10.0.0.1",
            "order.shop.muster. 5 SRV 0 100 80 a.instance.order.shop.muster.",
            "_rest._tcp.order.shop.muster. 5 SRV 0 100 80 a.instance.order.shop.muster.",
            "a.instance.order.shop.muster. 5 A 10.0.0.1",
        ] {
            assert!(rows.iter().any(|shown| shown == row), "{row}: {rows:#?}");
        }
        assert!(!rows.iter().any(|row| row.contains("10.0.0.2")), "{rows:#?}");
        let nameless = ServiceKey { service_name: String::new(), ..key };
        assert!(told(&nameless, Vec::new()).is_err());
    }
}
