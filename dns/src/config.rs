//! The settings of DNS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use host::exposure::Exposure;
use settings::Settings;
use shared::model::Tenant;

use crate::origin::Origin;

/// The settings of DNS; [`Default`] is the one that operators get when they set nothing but `dns.listen`.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// The address of the server, over UDP and TCP; `None` serves no DNS.
    pub listen: Option<SocketAddr>,
    /// The name of the zone.
    pub domain: String,
    /// The time for which an answer may be kept.
    pub ttl: Duration,
    /// The domain and project whose services have names.
    pub tenant: Tenant,
    /// The account whose rights decide about what is told.
    pub account: Option<String>,
    /// Everything is told to everybody, also with access control.
    pub anonymous: bool,
    /// Answers a second over UDP to one address; 0 is no limit.
    pub rate: u32,
    /// Connections open at once.
    pub connections: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            listen: None,
            domain: "muster.".into(),
            // Long enough for a burst of one client, short against the time in which an instance goes.
            ttl: Duration::from_secs(5),
            tenant: Tenant::default(),
            account: None,
            anonymous: false,
            rate: 1000,
            connections: 256,
        }
    }
}

impl DnsConfig {
    /// Declares the settings. `exposure` is the rule for listeners that other machines reach.
    pub fn read(settings: &mut Settings<'_>, exposure: Exposure) -> Self {
        let default = Self::default();
        let listen: Option<SocketAddr> =
            settings.optional("dns.listen", "Address for DNS, over UDP and TCP; without it there is no DNS.");
        let domain: String = settings.get_or("dns.domain", default.domain, "Name of the zone of DNS.");
        let ttl = settings.within_or(
            "dns.ttl",
            default.ttl,
            "0s"..="1h",
            "Time for which clients of DNS may keep an answer; whole seconds.",
        );
        if ttl.subsec_nanos() > 0 {
            settings.mistake("dns.ttl", "DNS counts in whole seconds");
        }
        let tenant: String = settings.get_or(
            "dns.tenant",
            default.tenant.to_string(),
            "Domain and project whose services DNS names, as domain/project.",
        );
        let account: Option<String> = settings.optional(
            "dns.account",
            "Account whose rights decide which services DNS tells, to everybody who reaches dns.listen. With access control, this or dns.anonymous is needed.",
        );
        let anonymous = settings.get_or(
            "dns.anonymous",
            default.anonymous,
            "Tell all services of dns.tenant to everybody who reaches dns.listen, also with access control.",
        );
        let rate = settings.get_or(
            "dns.rate",
            default.rate,
            "Answers a second over UDP to one address; beyond it clients are asked to come over TCP. 0 is no limit.",
        );
        let connections = settings.within_or(
            "dns.connections",
            default.connections,
            "1"..="65536",
            "Connections of DNS open at once; one address may have a quarter of them.",
        );
        if Origin::new(&domain, 0, IpAddr::from([0, 0, 0, 0])).is_err() {
            settings.mistake("dns.domain", "expected a name such as muster. or registry.example.com.");
        }
        let parsed = Tenant::parse(&tenant);
        if parsed.is_none() {
            settings.mistake("dns.tenant", "expected domain/project");
        }
        if account.is_some() && anonymous {
            settings.mistake(
                "dns.anonymous",
                "an account limits what DNS tells, and everybody is told everything",
            );
        }
        if let Some(listen) = listen
            && !anonymous
        {
            exposure.check(settings, "dns.listen", listen);
            if exposure.access_control && account.is_none() {
                settings.mistake(
                    "dns.listen",
                    "DNS has no tokens: with access control give --dns-account, or --dns-anonymous to tell \
                     everything to everybody",
                );
            }
        }
        Self {
            listen,
            domain,
            ttl,
            tenant: parsed.unwrap_or_default(),
            account,
            anonymous,
            rate,
            connections,
        }
    }

    /// The zone of a server on this address. `None` when the domain is none; reading the settings has
    /// reported that as a mistake.
    pub fn origin(&self, listening: SocketAddr) -> Option<Arc<Origin>> {
        let ttl = u32::try_from(self.ttl.as_secs()).unwrap_or(u32::MAX);
        Origin::new(&self.domain, ttl, listening.ip()).ok().map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use settings::{Config, Sources};

    use super::*;

    struct Program(DnsConfig);

    impl Config for Program {
        fn read(settings: &mut Settings<'_>) -> Self {
            let exposure = Exposure::read(settings);
            Self(DnsConfig::read(settings, exposure))
        }
    }

    fn started(variables: &[(&str, &str)]) -> Result<DnsConfig, String> {
        let sources = variables.iter().fold(Sources::default(), |sources, (name, value)| {
            sources.with_variable(&format!("MUSTER_{name}"), *value)
        });
        settings::parse::<Program>(&sources).map(|program| program.0).map_err(|mistakes| mistakes.to_string())
    }

    const HERE: (&str, &str) = ("DNS_LISTEN", "127.0.0.1:53");
    const WIDE: (&str, &str) = ("DNS_LISTEN", "0.0.0.0:53");
    const CLOSED: (&str, &str) = ("RBAC_ENABLE", "true");

    #[test]
    fn dns_is_off_unless_it_is_asked_for() {
        assert_eq!(started(&[]).expect("starts").listen, None);
        assert!(started(&[CLOSED]).is_ok());
        assert!(started(&[HERE]).expect("starts").listen.is_some());
        assert!(started(&[("DNS_TTL", "1500ms")]).is_err(), "DNS counts in seconds");
    }

    #[test]
    fn nobody_is_told_anything_by_oversight() {
        let account = ("DNS_ACCOUNT", "dns");
        let anonymous = ("DNS_ANONYMOUS", "true");
        assert!(started(&[WIDE]).is_err(), "other machines without access control");
        assert!(started(&[WIDE, account]).is_err(), "an account limits nothing without access control");
        for listen in [HERE, WIDE] {
            let refusal = started(&[listen, CLOSED]).expect_err("no word about what may be told");
            assert!(refusal.contains("--dns-account"), "{refusal}");
            assert!(started(&[listen, CLOSED, account]).is_ok());
            assert!(started(&[listen, CLOSED, anonymous]).is_ok());
            assert!(started(&[listen, anonymous]).is_ok());
        }
        assert!(started(&[HERE, account, anonymous]).is_err(), "both");
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mistakes = [("DNS_DOMAIN", "."), ("DNS_TENANT", "default"), ("DNS_TTL", "2h"), WIDE];
        let told = started(&mistakes).expect_err("mistakes");
        for key in ["DNS_DOMAIN", "DNS_TENANT", "DNS_TTL", "DNS_LISTEN"] {
            assert!(told.contains(key), "{key}: {told}");
        }
    }
}
