//! Reads which requests are drains, and what their clients want.

use std::time::Duration;

use http::Method;
use percent_encoding::percent_decode_str;

/// The shortest and the longest deadline.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);
/// The deadline of a request that names none. Clients that poll count until they have asked again, or for a
/// minute (`edge.polls`): by then each of them has, or has gone. A drain that is proven ends at once.
const USUAL: Duration = Duration::from_secs(70);
/// Waiting watchers that are named if the request does not say how many, and the most that it may ask for.
const NAMES: usize = 20;
const MOST_NAMES: usize = 1000;
/// The longest time for which an instance may be kept out of the traffic, as control planes take it.
const LONGEST_HOLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// The time for which it is kept so after the deadline if the request does not say it: time to stop it.
const USUAL_HOLD: Duration = Duration::from_secs(3600);
/// The same for one that is given back at the deadline, unless its gateway and its client have gone before.
const SHORT_HOLD: Duration = Duration::from_secs(60);
/// Characters of a reason, as control planes take it.
const MAX_REASON: usize = 256;

/// The instance, or the service with all of its instances, that is drained. The parts are as the path has
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Target {
    /// The path of the service, without its last slash.
    pub(super) base: String,
    /// The id of the service, decoded.
    pub(super) service: String,
    /// The id of the instance, as the path has it; `None` for all instances of the service.
    pub(super) instance: Option<String>,
}

/// The last step of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The instance is left as one that takes no traffic.
    Keep,
    /// It is unregistered.
    Unregister,
    /// It is given back: the mark ends.
    GiveBack,
}

/// The service of a request for its watchers. `None` for every other request.
pub(in crate::gateway) fn watched_of(method: &Method, path: &str) -> Option<Target> {
    let base = path.strip_suffix("/watchers")?;
    if method != Method::GET {
        return None;
    }
    let segments: Vec<&str> = base.strip_prefix('/')?.split('/').collect();
    let ["v4", project, "registry", "microservices", service] = segments[..] else { return None };
    if project.is_empty() || service.is_empty() {
        return None;
    }
    let service = percent_decode_str(service).decode_utf8().ok()?.into_owned();
    Some(Target { base: base.to_owned(), service, instance: None })
}

/// The most watchers that an answer names, from a query.
///
/// # Errors
/// The problem, in words for the client.
pub(super) fn names_of(query: &str) -> Result<usize, &'static str> {
    Wanted::read(query).map(|wanted| wanted.names)
}

/// The terms of a drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) deadline: Duration,
    pub(super) then: Then,
    /// The most waiting watchers that a line names.
    pub(super) names: usize,
    /// The time after which the mark ends by itself, from the beginning of the drain.
    pub(super) hold: Option<Duration>,
    /// The reason, for people; empty for none.
    pub(super) reason: String,
}

/// The target of a request for a drain. `None` for every other request.
pub(in crate::gateway) fn target_of(method: &Method, path: &str) -> Option<Target> {
    // First, because every forwarded request passes here.
    let path = path.strip_suffix("/drain")?;
    if method != Method::POST {
        return None;
    }
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (service, instance) = match segments[..] {
        ["v4", _, "registry", "microservices", service] | ["registry", "v3", "microservices", service] => {
            (service, None)
        }
        ["v4", _, "registry", "microservices", service, "instances", instance]
        | ["registry", "v3", "microservices", service, "instances", instance] => (service, Some(instance)),
        _ => return None,
    };
    if segments.iter().any(|segment| segment.is_empty()) {
        return None;
    }
    let base = match instance {
        Some(instance) => path.strip_suffix(instance)?.strip_suffix("/instances/")?,
        None => path,
    };
    Some(Target {
        base: base.to_owned(),
        service: percent_decode_str(service).decode_utf8().ok()?.into_owned(),
        instance: instance.map(str::to_owned),
    })
}

impl Wanted {
    /// Reads a query.
    ///
    /// # Errors
    /// The problem, in words for the client.
    pub(super) fn read(query: &str) -> Result<Self, &'static str> {
        let mut wanted =
            Self { deadline: USUAL, then: Then::Keep, names: NAMES, hold: None, reason: String::new() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "deadline" => {
                    let deadline = humantime::parse_duration(&value).ok();
                    let deadline = deadline.filter(|deadline| (SHORTEST..=LONGEST).contains(deadline));
                    wanted.deadline = deadline.ok_or("the deadline is a time from 1s to 1h, such as 30s")?;
                }
                "then" => {
                    wanted.then = match &*value {
                        "keep" => Then::Keep,
                        "unregister" => Then::Unregister,
                        "give-back" => Then::GiveBack,
                        _ => return Err("`then` is keep, unregister or give-back"),
                    };
                }
                "names" => {
                    let names = value.parse().ok().filter(|names| *names <= MOST_NAMES);
                    wanted.names = names.ok_or("`names` is a number up to 1000")?;
                }
                "for" => {
                    let hold = humantime::parse_duration(&value).ok();
                    let hold = hold.filter(|hold| (SHORTEST..=LONGEST_HOLD).contains(hold));
                    wanted.hold = Some(hold.ok_or("`for` is a time from 1s to 7d, such as 2h")?);
                }
                "reason" => {
                    if value.chars().count() > MAX_REASON {
                        return Err("the reason has at most 256 characters");
                    }
                    wanted.reason = value.into_owned();
                }
                // As everywhere in this API.
                _ => {}
            }
        }
        if wanted.hold.is_some_and(|hold| hold <= wanted.deadline) {
            return Err("`for` ends before the deadline, so the instance would be back before it is drained");
        }
        Ok(wanted)
    }

    /// The query by which a control plane is asked for the mark of one instance.
    pub(super) fn mark_query(&self) -> String {
        let after = if self.then == Then::GiveBack { SHORT_HOLD } else { USUAL_HOLD };
        let hold = self.hold.unwrap_or(self.deadline + after);
        // A part of a second is a second, or the mark could end before the deadline.
        let seconds = hold.as_secs() + u64::from(hold.subsec_nanos() > 0);
        let mut query = form_urlencoded::Serializer::new(format!("seconds={seconds}"));
        if !self.reason.is_empty() {
            query.append_pair("reason", &self.reason);
        }
        query.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<(String, String, Option<String>)> {
        let Target { base, service, instance } = target_of(&Method::POST, path)?;
        Some((base, service, instance))
    }

    #[test]
    fn both_kinds_of_paths_name_an_instance_or_a_service() {
        for base in ["/v4/p/registry/microservices/s%2F1", "/registry/v3/microservices/s%2F1"] {
            let service = target(&format!("{base}/drain"));
            assert_eq!(service, Some((base.to_owned(), "s/1".to_owned(), None)));
            let instance = target(&format!("{base}/instances/i%20/drain"));
            assert_eq!(instance, Some((base.to_owned(), "s/1".to_owned(), Some("i%20".to_owned()))));
        }
        for path in ["/drain", "/v4/p/registry/microservices//drain", "/v4/p/registry/x/s/drain"] {
            assert_eq!(target(path), None, "{path}");
        }
        assert_eq!(target_of(&Method::GET, "/v4/p/registry/microservices/s/drain"), None);
    }

    #[test]
    fn only_the_newer_paths_name_the_watchers_of_a_service() {
        let watched = |path: &str| watched_of(&Method::GET, path).map(|target| target.service);
        assert_eq!(watched("/v4/p/registry/microservices/s%2F1/watchers"), Some("s/1".to_owned()));
        for path in [
            "/registry/v3/microservices/s/watchers",
            "/v4/p/registry/microservices//watchers",
            "/v4/p/registry/microservices/s/instances/i/watchers",
            "/v4/p/registry/microservices/s/watcher",
            "/watchers",
        ] {
            assert_eq!(watched(path), None, "{path}");
        }
        assert_eq!(watched_of(&Method::POST, "/v4/p/registry/microservices/s/watchers"), None);
        assert_eq!((names_of("names=3"), names_of("names=1001").is_err()), (Ok(3), true));
    }

    #[test]
    fn a_drain_has_bounds() {
        let usual =
            Wanted { deadline: USUAL, then: Then::Keep, names: NAMES, hold: None, reason: String::new() };
        assert_eq!(Wanted::read(""), Ok(usual.clone()));
        let query = "deadline=5m&then=give-back&names=0&other=1&reason=new+disk";
        let deadline = Duration::from_secs(300);
        let all = Wanted { deadline, then: Then::GiveBack, names: 0, hold: None, reason: "new disk".into() };
        assert_eq!(Wanted::read(query), Ok(all.clone()));
        assert_eq!(usual.mark_query(), "seconds=3670");
        assert_eq!(all.mark_query(), "seconds=360&reason=new+disk", "one that is given back needs no hour");
        let held = Wanted { hold: Some(Duration::from_millis(80_500)), ..usual };
        assert_eq!(Wanted::read("for=80500ms").as_ref(), Ok(&held));
        assert_eq!(held.mark_query(), "seconds=81");
        for query in
            ["deadline=999ms", "deadline=61m", "deadline=x", "then=", "names=1001", "for=8d", "for=30s"]
        {
            assert!(Wanted::read(query).is_err(), "{query}");
        }
        assert!(Wanted::read(&format!("reason={}", "x".repeat(257))).is_err());
    }
}
