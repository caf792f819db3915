//! What a field may hold. The first field that does not hold it is named in the refusal.
//!
//! Limits are Service-Center's, to the character: a minimum counts bytes, a maximum counts characters. One
//! rule is ours: an id or a domain has no `/`, which would shift the segments of its key.

use shared::model::{DataCenter, HealthCheck, Instance, Service, ServiceKey};

use crate::failure::Failure;
use crate::version::{Version, VersionRule};

type Checked = Result<(), Failure>;

const ENVIRONMENTS: &[&str] = &["development", "testing", "acceptance", "production"];
/// The states that an instance may be put into.
pub const INSTANCE_STATES: &[&str] = &["UP", "DOWN", "STARTING", "TESTING", "OUTOFSERVICE"];

fn check(
    field: &str,
    value: &str,
    min: usize,
    max: usize,
    form: impl Fn(&str) -> bool,
    rule: &str,
) -> Checked {
    if value.len() >= min && value.chars().count() <= max && form(value) {
        return Ok(());
    }
    // A hostile value is not echoed whole.
    let shown: String = value.chars().take(64).collect();
    Err(Failure::invalid(format!(
        "field '{field}' invalid value '{shown}' does not match rule: {{Min: {min}, Max: {max}, Form: {rule}}}"
    )))
}

fn ascii_of(extra: &'static str) -> impl Fn(&str) -> bool {
    move |text| text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

/// Letters and digits at both ends, between them also `_`, `-`, `.` and `extra`.
fn name_form(extra: &'static str) -> impl Fn(&str) -> bool {
    move |text| {
        let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
        ends(text.chars().next())
            && ends(text.chars().last())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c) || extra.contains(c))
    }
}

fn no_blank(text: &str) -> bool {
    !text.contains(['\t', '\n', '\u{0c}', '\r', ' '])
}

fn no_blank_or_slash(text: &str) -> bool {
    no_blank(text) && !text.contains('/')
}

/// Any sequence of the words, also none: that is what the old expression `^(a|b)*$` says.
fn words(allowed: &'static [&'static str]) -> impl Fn(&str) -> bool {
    move |text| {
        let mut rest = text;
        while !rest.is_empty() {
            match allowed.iter().find_map(|word| rest.strip_prefix(word)) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        true
    }
}

fn one_of(allowed: &'static [&'static str]) -> impl Fn(&str) -> bool {
    move |text| allowed.contains(&text)
}

/// The tenant of a request.
pub fn tenant(domain: &str, project: &str) -> Checked {
    let form = |text: &str| !text.contains('/') && !text.chars().any(char::is_control);
    check("domain", domain, 1, 128, form, "no '/', no control characters")?;
    check("project", project, 1, 128, form, "no '/', no control characters")
}

/// A service id of a path.
pub fn service_id(id: &str) -> Checked {
    check("serviceId", id, 1, 64, no_blank_or_slash, "no blanks, no '/'")
}

/// An instance id of a path.
pub fn instance_id(id: &str) -> Checked {
    check("instanceId", id, 1, 64, ascii_of("_.-"), "letters, digits, '_', '.', '-'")
}

/// The id of a caller.
pub fn consumer_id(id: &str) -> Checked {
    check("X-ConsumerId", id, 0, 64, no_blank, "no blanks")
}

/// The id of a schema.
pub fn schema_id(id: &str) -> Checked {
    check("Schema.SchemaId", id, 1, 160, name_form(""), "letters, digits, '_', '-', '.'")
}

/// An environment.
pub fn environment(text: &str) -> Checked {
    check("environment", text, 0, usize::MAX, words(ENVIRONMENTS), "one of the four environments, or empty")
}

/// The key or value of a tag.
pub fn tag(text: &str) -> Checked {
    let form = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic()) && ascii_of("_-.")(text);
    check("tag", text, 1, 64, form, "a letter, then letters, digits, '_', '-', '.'")
}

/// A schema with its content; a batch must give summaries.
pub fn schema(it: &super::schema::Schema, with_summary: bool) -> Checked {
    schema_id(&it.schema_id)?;
    check("Schema.Summary", &it.summary, usize::from(with_summary), 128, ascii_of(""), "letters and digits")?;
    check("Schema.Schema", &it.schema, 1, usize::MAX, |_| true, "any")
}

/// A black or white rule.
pub fn rule(it: &crate::view::ServiceRule) -> Checked {
    const FIELDS: &[&str] =
        &["ServiceId", "AppId", "ServiceName", "Version", "Description", "Level", "Status"];
    check("ServiceRule.RuleType", &it.rule_type, 1, 5, one_of(&["WHITE", "BLACK"]), "WHITE or BLACK")?;
    match it.attribute.strip_prefix("tag_") {
        Some(key) => tag(key)?,
        None => check("ServiceRule.Attribute", &it.attribute, 1, 64, one_of(FIELDS), "tag_{key} or a field")?,
    }
    check("ServiceRule.Pattern", &it.pattern, 1, 64, |_| true, "any")?;
    check("ServiceRule.Description", &it.description, 0, 256, |_| true, "any")
}

/// The names by which a provider is looked up.
pub fn lookup(app_id: &str, name: &str, env: &str) -> Checked {
    check("appId", app_id, 1, 160, name_form(""), "letters, digits, '_', '-', '.'")?;
    check("serviceName", name, 1, 289, name_form(":"), "letters, digits, '_', '-', '.', ':'")?;
    environment(env)
}

/// A version rule of a lookup.
pub fn version_rule(text: &str) -> Result<VersionRule, Failure> {
    let invalid = || {
        let shown: String = text.chars().take(64).collect();
        Failure::invalid(format!(
            "field 'version' invalid value '{shown}': expected x.y.z, x.y.z+, x.y.z-x.y.z or latest"
        ))
    };
    if text.len() > 129 { Err(invalid()) } else { VersionRule::parse(text).ok_or_else(invalid) }
}

fn version(field: &str, text: &str) -> Checked {
    check(field, text, 1, 64, |t| Version::parse(t).is_some(), "one to four numbers up to 32767")
}

/// A service to be registered, after defaults were filled in.
pub fn service(it: &Service, schema_quota: usize) -> Checked {
    const N: &str = "letters, digits, '_', '-', '.'";
    check("MicroService.ServiceId", &it.service_id, 0, 64, no_blank_or_slash, "no blanks, no '/'")?;
    check("MicroService.AppId", &it.app_id, 0, 160, name_form(""), N)?;
    check("MicroService.ServiceName", &it.service_name, 1, 128, name_form(""), N)?;
    version("MicroService.Version", &it.version)?;
    check("MicroService.Description", &it.description, 0, 256, |_| true, "any")?;
    check(
        "MicroService.Level",
        &it.level,
        1,
        8,
        one_of(&["FRONT", "MIDDLE", "BACK"]),
        "FRONT, MIDDLE or BACK",
    )?;
    if it.schemas.len() > schema_quota {
        return Err(Failure::invalid(format!(
            "field 'MicroService.Schemas' has more than {schema_quota} items"
        )));
    }
    it.schemas.iter().try_for_each(|id| schema_id(id))?;
    for path in &it.paths {
        let form = ascii_of(r".,?'\/+&;%$#=~_-@{}");
        check("ServicePath.Path", &path.path, 0, usize::MAX, form, "a path")?;
    }
    check("MicroService.Status", &it.status, 0, 4, one_of(&["", "UP", "DOWN"]), "UP or DOWN")?;
    check("MicroService.Alias", &it.alias, 0, 128, ascii_of("_-.:"), "letters, digits, '_', '-', '.', ':'")?;
    environment(&it.environment)?;
    check(
        "MicroService.RegisterBy",
        &it.register_by,
        0,
        64,
        words(&["SDK", "SIDECAR", "PLATFORM"]),
        "SDK, SIDECAR or PLATFORM",
    )?;
    if let Some(framework) = &it.framework {
        check("FrameWork.Name", &framework.name, 0, 64, name_form(""), N)?;
        check("FrameWork.Version", &framework.version, 0, 64, |_| true, "any")?;
    }
    Ok(())
}

/// An instance to be registered.
pub fn instance(it: &Instance) -> Checked {
    check(
        "MicroServiceInstance.InstanceId",
        &it.instance_id,
        0,
        64,
        ascii_of("_.-"),
        "letters, digits, '_', '.', '-'",
    )?;
    let visible = |text: &str| text.chars().any(|c| no_blank(c.encode_utf8(&mut [0; 4])));
    for endpoint in &it.endpoints {
        check("MicroServiceInstance.Endpoints", endpoint, 0, usize::MAX, visible, "not blank")?;
    }
    check("MicroServiceInstance.HostName", &it.host_name, 1, 64, visible, "not blank")?;
    if !it.status.is_empty() {
        instance_status(&it.status)?;
    }
    it.health_check.as_ref().map_or(Ok(()), health_check)?;
    it.data_center_info.as_ref().map_or(Ok(()), data_center)
}

/// A state that an instance is to be put into.
pub fn instance_status(status: &str) -> Checked {
    check(
        "MicroServiceInstance.Status",
        status,
        1,
        12,
        one_of(INSTANCE_STATES),
        "UP, DOWN, STARTING, TESTING or OUTOFSERVICE",
    )
}

fn health_check(it: &HealthCheck) -> Checked {
    check("HealthCheck.Mode", &it.mode, 1, 4, one_of(&["push", "pull"]), "push or pull")?;
    check("HealthCheck.Url", &it.url, 0, usize::MAX, no_blank, "no blanks")?;
    if !(0..=65535).contains(&it.port) {
        return Err(Failure::invalid("field 'HealthCheck.Port' is not between 0 and 65535"));
    }
    if it.interval < 1 || it.times < 0 {
        return Err(Failure::invalid(
            "field 'HealthCheck.Interval' must be at least 1 and 'Times' at least 0",
        ));
    }
    Ok(())
}

fn data_center(it: &DataCenter) -> Checked {
    for (field, value) in [("Name", &it.name), ("Region", &it.region), ("AvailableZone", &it.available_zone)]
    {
        let rule = "letters, digits, '_', '.', '-'";
        check(&format!("DataCenterInfo.{field}"), value, 1, 128, ascii_of("_.-"), rule)?;
    }
    Ok(())
}

/// The consumer of a dependency.
pub fn dependency_consumer(it: &ServiceKey) -> Checked {
    check("Consumer.AppId", &it.app_id, 1, 160, name_form(""), "letters, digits, '_', '-', '.'")?;
    check("Consumer.ServiceName", &it.service_name, 1, 128, name_form(""), "letters, digits, '_', '-', '.'")?;
    version("Consumer.Version", &it.version)?;
    environment(&it.environment)
}

/// The provider of a dependency.
pub fn dependency_provider(it: &ServiceKey) -> Checked {
    if it.service_name == "*" {
        return Ok(());
    }
    check("Provider.AppId", &it.app_id, 0, 160, name_form(""), "letters, digits, '_', '-', '.'")?;
    check(
        "Provider.ServiceName",
        &it.service_name,
        1,
        128,
        name_form(""),
        "letters, digits, '_', '-', '.', or '*'",
    )?;
    environment(&it.environment)?;
    if it.version.is_empty() {
        return Err(Failure::invalid("Required provider version"));
    }
    version_rule(&it.version).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_at_its_edge_and_not_past_it() {
        let long = |n: usize| "a".repeat(n);
        assert!(service_id(&long(64)).is_ok() && service_id(&long(65)).is_err());
        assert!(service_id("").is_err() && service_id("a b").is_err() && service_id("a/b").is_err());
        assert!(instance_id(&long(64)).is_ok() && instance_id("a:b").is_err());
        assert!(lookup(&long(160), &long(289), "").is_ok());
        assert!(lookup(&long(161), "a", "").is_err() && lookup("a", &long(290), "").is_err());
        assert!(lookup("a", "app:name", "production").is_ok() && lookup("a", "-a", "").is_err());
        assert!(environment("staging").is_err() && environment("developmenttesting").is_ok());
        assert!(tag("zone").is_ok() && tag("1zone").is_err() && tag(&long(65)).is_err());
        assert!(version_rule("1.0.0+").is_ok() && version_rule("x").is_err());
        assert!(tenant("default", "p").is_ok() && tenant("a/b", "p").is_err() && tenant("", "p").is_err());
    }

    #[test]
    fn a_service_is_checked_field_by_field() {
        let good = Service {
            app_id: "shop".into(),
            service_name: "order".into(),
            version: "2.1.0".into(),
            level: "MIDDLE".into(),
            ..Default::default()
        };
        assert!(service(&good, 100).is_ok());
        let broken: [fn(&mut Service); 9] = [
            |s| s.service_name.clear(),
            |s| s.service_name = "-order".into(),
            |s| s.version = "1.40000".into(),
            |s| s.level = "TOP".into(),
            |s| s.status = "up".into(),
            |s| s.description = "é".repeat(257),
            |s| s.alias = "a b".into(),
            |s| s.register_by = "HAND".into(),
            |s| s.schemas = vec!["s".into(); 101],
        ];
        for (index, spoil) in broken.into_iter().enumerate() {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(service(&bad, 100).is_err(), "case {index}");
        }
        let mut counted_in_characters = good;
        counted_in_characters.description = "é".repeat(256);
        assert!(service(&counted_in_characters, 100).is_ok());
    }

    #[test]
    fn a_data_centre_is_whole_or_absent() {
        let mut it = Instance { host_name: "n".into(), ..Default::default() };
        assert!(instance(&it).is_ok());
        it.data_center_info = Some(DataCenter { name: "dc".into(), ..Default::default() });
        assert!(instance(&it).is_err());
    }
}
