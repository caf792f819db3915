//! The paths of Eureka: which operation a request is, on what, and where.
//!
//! In: a method and a path as it was sent. Out: the operation, with its names decoded, and the part of the
//! registry that it concerns. Below `/eureka` lie Eureka's own paths; below `/eureka/in/{scope}` the same
//! ones for another part of the registry, because clients of Eureka can be given an address and little more.

use http::Method;
use percent_encoding::percent_decode_str;

use super::apps::Scope;

/// Bytes that an id of an instance may have.
const MAX_ID: usize = 256;
/// Bytes in the name of an application, or one by which instances are looked up.
const MAX_NAME: usize = 256;
/// Bytes in a part of the scope; the registry has limits of its own for each.
const MAX_PART: usize = 160;

/// The part of the registry that a request concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The domain that the path names.
    pub(crate) domain: Option<String>,
    /// The project that the path names.
    pub(crate) project: Option<String>,
    pub(crate) scope: Scope,
}

/// A request of a client of Eureka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) place: Place,
    pub(crate) operation: Operation,
}

/// One operation. Applications are in upper case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Every instance.
    Apps,
    /// The changes of the last minutes.
    Delta,
    /// The instances of an application.
    App(String),
    /// One instance.
    Instance(String, String),
    /// One instance, of whatever application.
    ById(String),
    /// The instances with this name.
    Vip {
        name: String,
        secure: bool,
    },
    Register(String),
    Renew(String, String),
    Cancel(String, String),
    /// Sets a status against the instance's own.
    SetStatus(String, String),
    /// Takes such a status back.
    ClearStatus(String, String),
    SetMetadata(String, String),
}

/// True for every path below this dialect's.
pub(crate) fn is_eureka(path: &str) -> bool {
    path.starts_with("/eureka/")
}

/// True for the renewal of a lease.
pub(crate) fn is_renewal(method: &Method, path: &str) -> bool {
    method == Method::PUT
        && below(path).is_some_and(|(_, rest)| {
            let mut segments = rest.split('/');
            segments.next() == Some("apps") && segments.count() == 2
        })
}

/// The scope that a path names, and its rest.
fn below(path: &str) -> Option<(&str, &str)> {
    let rest = path.strip_prefix("/eureka/")?;
    match rest.strip_prefix("in/") {
        Some(rest) => rest.split_once('/'),
        None => Some(("", rest)),
    }
}

impl Place {
    /// The place of a path. `None` for a path that is none of Eureka's.
    ///
    /// # Errors
    /// The problem in words, when the path names a place in another form.
    pub(crate) fn of_path(path: &str) -> Option<Result<Self, &'static str>> {
        below(path).map(|(scope, _)| Self::read(scope))
    }

    fn read(scope: &str) -> Result<Self, &'static str> {
        let mut named: [Option<String>; 4] = [const { None }; 4];
        let scope = decoded(scope, MAX_PART * 4 + 64)?;
        for part in scope.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or("a part of the scope is not key=value")?;
            let place = ["domain", "project", "env", "app"].iter().position(|known| *known == key);
            let place = place.ok_or("the scope may name domain, project, env and app")?;
            if value.is_empty() || value.len() > MAX_PART {
                return Err("a part of the scope is empty or too long");
            }
            if named[place].replace(value.to_owned()).is_some() {
                return Err("a part of the scope is named twice");
            }
        }
        let [domain, project, environment, app_id] = named;
        let scope = Scope {
            environment: environment.unwrap_or_default(),
            app_id: app_id.unwrap_or_else(|| "default".to_owned()),
        };
        Ok(Self { domain, project, scope })
    }
}

impl Asked {
    /// Reads a request. `None` for a path or a method that is none of Eureka's.
    ///
    /// # Errors
    /// The problem in words, when a name cannot be one.
    pub(crate) fn read(method: &Method, path: &str) -> Option<Result<Self, &'static str>> {
        let (scope, rest) = below(path)?;
        let operation = Operation::read(method, rest)?;
        Some(operation.and_then(|operation| Ok(Self { place: Place::read(scope)?, operation })))
    }
}

impl Operation {
    fn read(method: &Method, path: &str) -> Option<Result<Self, &'static str>> {
        let segments: Vec<&str> = path.splitn(5, '/').collect();
        let with_id = |app: &str, id: &str, make: fn(String, String) -> Self| {
            Ok(make(name_of(app)?, decoded(id, MAX_ID)?))
        };
        let operation = match (method.as_str(), &segments[..]) {
            // Most clients end the path with a slash.
            ("GET", ["apps"] | ["apps", ""]) => Ok(Self::Apps),
            ("GET", ["apps", "delta"]) => Ok(Self::Delta),
            ("GET", ["apps", app]) => name_of(app).map(Self::App),
            ("GET", ["apps", app, id]) => with_id(app, id, Self::Instance),
            ("GET", ["instances", id]) => decoded(id, MAX_ID).map(Self::ById),
            ("GET", ["vips", name]) => decoded(name, MAX_NAME).map(|name| Self::Vip { name, secure: false }),
            ("GET", ["svips", name]) => decoded(name, MAX_NAME).map(|name| Self::Vip { name, secure: true }),
            ("POST", ["apps", app]) => name_of(app).map(Self::Register),
            ("PUT", ["apps", app, id]) => with_id(app, id, Self::Renew),
            ("DELETE", ["apps", app, id]) => with_id(app, id, Self::Cancel),
            ("PUT", ["apps", app, id, "status"]) => with_id(app, id, Self::SetStatus),
            ("DELETE", ["apps", app, id, "status"]) => with_id(app, id, Self::ClearStatus),
            ("PUT", ["apps", app, id, "metadata"]) => with_id(app, id, Self::SetMetadata),
            _ => return None,
        };
        Some(operation)
    }
}

fn name_of(segment: &str) -> Result<String, &'static str> {
    decoded(segment, MAX_NAME).map(|name| name.to_uppercase())
}

fn decoded(segment: &str, most: usize) -> Result<String, &'static str> {
    let text = percent_decode_str(segment).decode_utf8().map_err(|_| "a name is not UTF-8")?;
    if text.len() > most {
        return Err("a name is too long");
    }
    Ok(text.into_owned())
}
