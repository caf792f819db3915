//! The rule about listeners that other machines can reach: access control, or a word that anybody is welcome.
//!
//! In: the address of a listener and two settings. Out: a mistake of the configuration, or a sentence for the
//! log of a process that lets everybody in.

use std::net::{IpAddr, SocketAddr};

use settings::Settings;

/// The settings that decide whether strangers may be let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exposure {
    /// Requests need the token of an account.
    pub access_control: bool,
    /// Every client that reaches a listener may use it, also from other machines.
    pub allow_anonymous: bool,
}

impl Exposure {
    /// Declares `rbac.enable` and `allow-anonymous`.
    pub fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            access_control: settings.get(
                "rbac.enable",
                "false",
                "Access control: requests need the token of an account. A gateway demands it too when its control planes have it on.",
            ),
            allow_anonymous: settings.get(
                "allow-anonymous",
                "false",
                "Let other machines use the registry without access control: all that reach it may read and change all of it.",
            ),
        }
    }

    /// Makes a mistake of a listener that other machines can reach while everybody would be let in. `key` is
    /// the setting of its address.
    pub fn check(self, settings: &mut Settings<'_>, key: &'static str, listen: SocketAddr) {
        if self.access_control || self.allow_anonymous || is_loopback(listen) {
            return;
        }
        settings.mistake(
            key,
            format!(
                "other machines can reach {listen}, and access control is off: give --rbac-enable, \
                 listen on 127.0.0.1, or give --allow-anonymous to let everybody in"
            ),
        );
    }

    /// The sentence that an operator reads when every client that reaches the listener may use it.
    pub fn notice(self, listening: SocketAddr) -> Option<&'static str> {
        if self.access_control {
            None
        } else if is_loopback(listening) {
            Some(
                "access control is off: every program on this machine may read and change the whole registry",
            )
        } else {
            Some(
                "access control is off: everybody who reaches this address may read and change the whole registry",
            )
        }
    }
}

/// True when no other machine can reach the address.
fn is_loopback(address: SocketAddr) -> bool {
    match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        // An IPv4 address in the clothes of IPv6 is one all the same.
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    }
}

/// Makes a mistake of two listeners that cannot both be bound. Port 0 is another port each time.
pub fn check_apart(settings: &mut Settings<'_>, own: (&str, SocketAddr), other: (&str, SocketAddr)) {
    let (key, own) = own;
    let (other_key, other) = other;
    let takes = |listener: SocketAddr, ip: IpAddr| match listener.ip().to_canonical() {
        IpAddr::V4(any) if any.is_unspecified() => ip.to_canonical().is_ipv4(),
        // Linux takes connections over IPv4 there as well.
        IpAddr::V6(any) if any.is_unspecified() => true,
        same => same == ip.to_canonical(),
    };
    let meet = takes(own, other.ip()) || takes(other, own.ip());
    if own.port() != 0 && own.port() == other.port() && meet {
        settings.mistake(key, format!("{own} is the address of {other_key} as well"));
    }
}

#[cfg(test)]
mod tests {
    use settings::{Config, Sources};

    use super::*;

    struct Program(SocketAddr, Exposure);

    impl Config for Program {
        fn read(settings: &mut Settings<'_>) -> Self {
            let listen = settings.get("listen", "127.0.0.1:30100", "Address.");
            let exposure = Exposure::read(settings);
            exposure.check(settings, "listen", listen);
            Self(listen, exposure)
        }
    }

    fn started(variables: &[(&str, &str)]) -> Result<Program, String> {
        let mut sources = Sources::default();
        for (name, value) in variables {
            sources = sources.with_variable(name, *value);
        }
        settings::parse(&sources).map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn strangers_are_let_in_only_when_that_is_said() {
        for open in ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "[::ffff:10.0.0.7]:1"] {
            let listen = ("MUSTER_LISTEN", open);
            let refusal = started(&[listen]).err().expect("is refused");
            assert!(refusal.contains("--allow-anonymous") && refusal.contains(open), "{refusal}");
            for way in ["MUSTER_ALLOW_ANONYMOUS", "MUSTER_RBAC_ENABLE"] {
                assert!(started(&[listen, (way, "true")]).is_ok(), "{way} {open}");
                assert!(started(&[listen, (way, "false")]).is_err(), "{way} {open}");
            }
        }
        for closed in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(started(&[("MUSTER_LISTEN", closed)]).is_ok(), "{closed}");
        }
    }

    #[test]
    fn two_listeners_of_one_address_are_a_mistake() {
        struct Two;
        impl Config for Two {
            fn read(settings: &mut Settings<'_>) -> Self {
                let own = settings.get("admin-listen", "127.0.0.1:2", "Address.");
                let other = settings.get("listen", "127.0.0.1:1", "Address.");
                check_apart(settings, ("admin-listen", own), ("listen", other));
                Self
            }
        }
        for (own, other, is_right) in [
            ("127.0.0.1:1", "127.0.0.1:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", false),
            ("127.0.0.1:1", "[::]:1", false),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", false),
            ("[::1]:1", "0.0.0.0:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", true),
            ("127.0.0.1:0", "127.0.0.1:0", true),
        ] {
            let sources = Sources::default().with_variable("MUSTER_ADMIN_LISTEN", own);
            let outcome = settings::parse::<Two>(&sources.with_variable("MUSTER_LISTEN", other));
            assert_eq!(outcome.is_ok(), is_right, "{own} {other}");
        }
    }

    #[test]
    fn a_process_that_lets_everybody_in_says_so() {
        let Program(listen, exposure) = started(&[]).expect("starts");
        assert!(exposure.notice(listen).is_some_and(|notice| notice.contains("on this machine")));
        let wide = "0.0.0.0:1".parse().expect("an address");
        assert!(exposure.notice(wide).is_some_and(|notice| notice.contains("everybody who reaches")));
        let closed = started(&[("MUSTER_RBAC_ENABLE", "true")]).expect("starts").1;
        assert_eq!(closed.notice(wide), None);
    }
}
