//! The form of fields. A refusal names the first field that does not have its form.
//!
//! Limits are Service-Center's, to the character: a minimum counts bytes, a maximum counts characters. One
//! rule is added: an id or a domain has no `/`, which would shift the segments of its key.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::model::{
    DataCenter, HealthCheck, Instance, MAX_ID, MAX_TENANT_NAME, Service, ServiceKey, WEIGHT, is_service_id,
    is_tenant_name,
};

use super::RegistryError;
use super::schema::Schema;
use crate::record;
use crate::version::{Version, VersionRule};
use crate::view::ServiceRule;
use crate::view::overrides::{OverrideRecord, OverrideTarget};
use crate::view::shifts::ShiftRecord;

type Checked = Result<(), RegistryError>;

const ENVIRONMENTS: &[&str] = &["development", "testing", "acceptance", "production"];
/// The statuses that an instance may have.
const INSTANCE_STATES: &[&str] = &["UP", "DOWN", "STARTING", "TESTING", "OUTOFSERVICE"];
/// Characters of a refused value that the refusal shows. A hostile value is not echoed whole.
const SHOWN: usize = 64;
/// Bytes of a version rule: two versions and the sign between them.
const VERSION_RULE_BYTES: usize = 129;

/// Bytes of an override or a shift in the store.
const LARGEST_WISH: usize = 16 << 10;
/// Steps that a shift may have.
const MOST_STEPS: usize = 50;
/// The longest step of a shift, in seconds.
const LONGEST_STEP: u64 = 30 * 24 * 60 * 60;

const LETTERS: &str = "letters and digits";
const ID: &str = "letters, digits, '_', '.', '-'";
const NAME: &str = "letters, digits, '_', '-', '.'";
const NAME_WITH_COLON: &str = "letters, digits, '_', '-', '.', ':'";
const NAME_OR_ALL: &str = "letters, digits, '_', '-', '.', or '*'";
const NO_BLANKS: &str = "no blanks";
const NO_BLANKS_OR_SLASH: &str = "no blanks, no '/'";
const NOT_BLANK: &str = "not blank";

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
    Err(RegistryError::invalid(format!(
        "field '{field}' invalid value '{}' does not match rule: {{Min: {min}, Max: {max}, Form: {rule}}}",
        shown(value)
    )))
}

fn shown(value: &str) -> String {
    value.chars().take(SHOWN).collect()
}

fn any(_: &str) -> bool {
    true
}

fn ascii_of(extra: &'static str) -> impl Fn(&str) -> bool {
    move |text| text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

/// Letters and digits at both ends, between them also `_`, `-`, `.` and `extra`.
fn name_form(extra: &'static str) -> impl Fn(&str) -> bool {
    move |text| {
        let inner = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c) || extra.contains(c));
        let first = text.chars().next().is_none_or(|c| c.is_ascii_alphanumeric());
        let last = text.chars().last().is_none_or(|c| c.is_ascii_alphanumeric());
        inner && first && last
    }
}

fn no_blank(text: &str) -> bool {
    !text.contains(['\t', '\n', '\u{0c}', '\r', ' '])
}

fn no_blank_or_slash(text: &str) -> bool {
    no_blank(text) && !text.contains('/') && !text.chars().any(char::is_control)
}

/// At least one character that is not a blank.
fn not_blank(text: &str) -> bool {
    text.chars().any(|c| no_blank(c.encode_utf8(&mut [0; 4])))
}

fn tag_form(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && ascii_of("_-.")(text)
}

/// Any sequence of the words, also none: Service-Center's expression is `^(a|b)*$`.
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

pub(crate) fn tenant(domain: &str, project: &str) -> Checked {
    let rule = "no '/', no control characters";
    check("domain", domain, 1, MAX_TENANT_NAME, is_tenant_name, rule)?;
    check("project", project, 1, MAX_TENANT_NAME, is_tenant_name, rule)
}

pub(crate) fn service_id(id: &str) -> Checked {
    check("serviceId", id, 1, MAX_ID, is_service_id, NO_BLANKS_OR_SLASH)
}

pub(crate) fn instance_id(id: &str) -> Checked {
    check("instanceId", id, 1, MAX_ID, ascii_of("_.-"), ID)
}

pub(crate) fn consumer_id(id: &str) -> Checked {
    check("X-ConsumerId", id, 0, MAX_ID, no_blank, NO_BLANKS)
}

pub(crate) fn schema_id(id: &str) -> Checked {
    check("Schema.SchemaId", id, 1, 160, name_form(""), NAME)
}

fn environment(text: &str) -> Checked {
    // Service-Center has no maximum here. The environment is part of keys and of every event.
    check("environment", text, 0, 128, words(ENVIRONMENTS), "one of the four environments, or empty")
}

/// The key or value of a tag.
pub(crate) fn tag(text: &str) -> Checked {
    check("tag", text, 1, 64, tag_form, "a letter, then letters, digits, '_', '-', '.'")
}

/// A list in a path: at least one item, and not more than the object may have.
pub(super) fn listed(field: &str, items: &[String], most: usize) -> Checked {
    if (1..=most).contains(&items.len()) {
        return Ok(());
    }
    Err(RegistryError::invalid(format!("field '{field}' must have 1 to {most} items")))
}

pub(super) fn rule_id(id: &str) -> Checked {
    check("ServiceRule.RuleId", id, 1, MAX_ID, no_blank_or_slash, NO_BLANKS_OR_SLASH)
}

/// A schema with its content. In a batch each must have a summary.
pub(super) fn schema(schema: &Schema, with_summary: bool) -> Checked {
    schema_id(&schema.schema_id)?;
    check("Schema.Summary", &schema.summary, usize::from(with_summary), 128, ascii_of(""), LETTERS)?;
    check("Schema.Schema", &schema.schema, 1, usize::MAX, any, "any")
}

/// A black or white rule.
pub(super) fn rule(rule: &ServiceRule) -> Checked {
    const FIELDS: &[&str] =
        &["ServiceId", "AppId", "ServiceName", "Version", "Description", "Level", "Status"];
    check("ServiceRule.RuleType", &rule.rule_type, 1, 5, one_of(&["WHITE", "BLACK"]), "WHITE or BLACK")?;
    match rule.attribute.strip_prefix("tag_") {
        Some(key) => tag(key)?,
        None => {
            check("ServiceRule.Attribute", &rule.attribute, 1, 64, one_of(FIELDS), "tag_{key} or a field")?;
        }
    }
    check("ServiceRule.Pattern", &rule.pattern, 1, 64, any, "any")?;
    check("ServiceRule.Description", &rule.description, 0, 256, any, "any")
}

/// The names by which a provider is looked up.
pub(crate) fn lookup(app_id: &str, name: &str, env: &str) -> Checked {
    check("appId", app_id, 1, 160, name_form(""), NAME)?;
    // An alias may be an application, a colon and a name, so this is longer than a name and may have a colon.
    check("serviceName", name, 1, 289, name_form(":"), NAME_WITH_COLON)?;
    environment(env)
}

/// The version rule of a lookup.
pub(super) fn version_rule(text: &str) -> Result<VersionRule, RegistryError> {
    let parsed = if text.len() > VERSION_RULE_BYTES { None } else { VersionRule::parse(text) };
    parsed.ok_or_else(|| {
        RegistryError::invalid(format!(
            "field 'version' invalid value '{}': expected x.y.z, x.y.z+, x.y.z-x.y.z or latest",
            shown(text)
        ))
    })
}

fn version(field: &str, text: &str) -> Checked {
    check(field, text, 1, 64, |text| Version::parse(text).is_some(), "one to four numbers up to 32767")
}

/// A service to be registered, after its defaults were filled in.
pub(super) fn service(service: &Service, schema_quota: usize) -> Checked {
    check("MicroService.ServiceId", &service.service_id, 0, 64, no_blank_or_slash, NO_BLANKS_OR_SLASH)?;
    check("MicroService.AppId", &service.app_id, 0, 160, name_form(""), NAME)?;
    check("MicroService.ServiceName", &service.service_name, 1, 128, name_form(""), NAME)?;
    version("MicroService.Version", &service.version)?;
    check("MicroService.Description", &service.description, 0, 256, any, "any")?;
    let levels = one_of(&["FRONT", "MIDDLE", "BACK"]);
    check("MicroService.Level", &service.level, 1, 8, levels, "FRONT, MIDDLE or BACK")?;
    if service.schemas.len() > schema_quota {
        return Err(RegistryError::invalid(format!(
            "field 'MicroService.Schemas' has more than {schema_quota} items"
        )));
    }
    service.schemas.iter().try_for_each(|id| schema_id(id))?;
    for path in &service.paths {
        let form = ascii_of(r".,?'\/+&;%$#=~_-@{}");
        check("ServicePath.Path", &path.path, 0, usize::MAX, form, "a path")?;
    }
    check("MicroService.Status", &service.status, 0, 4, one_of(&["", "UP", "DOWN"]), "UP or DOWN")?;
    check("MicroService.Alias", &service.alias, 0, 128, ascii_of("_-.:"), NAME_WITH_COLON)?;
    environment(&service.environment)?;
    let registrants = words(&["SDK", "SIDECAR", "PLATFORM"]);
    check("MicroService.RegisterBy", &service.register_by, 0, 64, registrants, "SDK, SIDECAR or PLATFORM")?;
    if let Some(framework) = &service.framework {
        check("FrameWork.Name", &framework.name, 0, 64, name_form(""), NAME)?;
        check("FrameWork.Version", &framework.version, 0, 64, any, "any")?;
    }
    Ok(())
}

/// An instance to be registered.
pub(super) fn instance(instance: &Instance) -> Checked {
    check("MicroServiceInstance.InstanceId", &instance.instance_id, 0, 64, ascii_of("_.-"), ID)?;
    for endpoint in &instance.endpoints {
        check("MicroServiceInstance.Endpoints", endpoint, 0, usize::MAX, not_blank, NOT_BLANK)?;
    }
    check("MicroServiceInstance.HostName", &instance.host_name, 1, 64, not_blank, NOT_BLANK)?;
    if !instance.status.is_empty() {
        instance_status(&instance.status)?;
    }
    instance.health_check.as_ref().map_or(Ok(()), health_check)?;
    instance.data_center_info.as_ref().map_or(Ok(()), data_center)
}

pub(super) fn instance_status(status: &str) -> Checked {
    let rule = "UP, DOWN, STARTING, TESTING or OUTOFSERVICE";
    check("MicroServiceInstance.Status", status, 1, 12, one_of(INSTANCE_STATES), rule)
}

/// An override. Its bounds keep the record small, and the merged instance near the size of the reported one.
pub(super) fn an_override(record: &OverrideRecord) -> Checked {
    let OverrideRecord { target, status, weight, metadata, hidden_from, reason, .. } = record;
    override_target(target)?;
    if !status.is_empty() {
        instance_status(status)?;
    }
    if weight.is_some_and(|weight| weight > 100) {
        return Err(RegistryError::invalid("field 'weight' is not between 0 and 100"));
    }
    pairs("metadata", metadata)?;
    pairs("hiddenFrom", hidden_from)?;
    self::reason(reason)?;
    if metadata.contains_key(WEIGHT) {
        return Err(RegistryError::invalid("field 'metadata' has a weight, which is the field 'weight'"));
    }
    if !hidden_from.is_empty() && !target.is_whole_service() {
        return Err(RegistryError::invalid(
            "only a whole service can be hidden: 'hiddenFrom' takes no target",
        ));
    }
    if status.is_empty() && weight.is_none() && metadata.is_empty() && hidden_from.is_empty() {
        return Err(RegistryError::invalid("the override changes nothing"));
    }
    small("override", record, LARGEST_WISH)
}

/// The reason of an override, a shift or a drain.
pub(super) fn reason(text: &str) -> Checked {
    check("reason", text, 1, 256, not_blank, NOT_BLANK)
}

fn override_target(target: &OverrideTarget) -> Checked {
    if target.drain {
        let text = "field 'drain' is that of a drain's mark, which a drain sets: POST …/instances/{instanceId}/drain";
        return Err(RegistryError::invalid(text));
    }
    check("instanceId", &target.instance_id, 0, 64, ascii_of("_.-"), ID)?;
    check("version", &target.version, 0, 64, ascii_of("."), "a version")?;
    check("zone", &target.zone, 0, 128, ascii_of("_.-"), ID)?;
    pairs("properties", &target.properties)
}

/// A shift that is to start. Its bounds keep the record small.
pub(super) fn shift(plan: &ShiftRecord) -> Checked {
    for side in [&plan.from, &plan.to] {
        service_id(&side.service_id)?;
        override_target(&side.target)?;
    }
    reason(&plan.reason)?;
    if plan.from == plan.to {
        return Err(RegistryError::invalid("fields 'from' and 'to' are the same instances"));
    }
    if !(1..=MOST_STEPS).contains(&plan.steps.len()) {
        return Err(RegistryError::invalid(format!("field 'steps' must have 1 to {MOST_STEPS} items")));
    }
    for step in &plan.steps {
        if step.to_weight > 100 || step.from_weight > 100 {
            return Err(RegistryError::invalid("a weight of field 'steps' is not between 0 and 100"));
        }
        if step.to_weight == 0 && step.from_weight == 0 {
            return Err(RegistryError::invalid("a step of field 'steps' leaves no weight on either side"));
        }
        if !(1..=LONGEST_STEP).contains(&step.seconds) {
            let text = format!("field 'seconds' of a step is not between 1 and {LONGEST_STEP}");
            return Err(RegistryError::invalid(text));
        }
    }
    small("shift", plan, LARGEST_WISH)
}

/// Refuses a record whose texts are long together. Some characters take six bytes each in the store.
fn small(name: &str, record: &impl Serialize, most: usize) -> Checked {
    let bytes = record::render(record, None).len();
    if bytes > most {
        return Err(RegistryError::invalid(format!("the {name} has {bytes} bytes, more than {most}")));
    }
    Ok(())
}

/// Pairs of an override, which are few and short.
fn pairs(field: &str, pairs: &BTreeMap<String, String>) -> Checked {
    if pairs.len() > 16 {
        return Err(RegistryError::invalid(format!("field '{field}' has more than 16 items")));
    }
    for (key, value) in pairs {
        check(field, key, 1, 128, not_blank, NOT_BLANK)?;
        check(field, value, 0, 256, any, "any")?;
    }
    Ok(())
}

fn health_check(health: &HealthCheck) -> Checked {
    check("HealthCheck.Mode", &health.mode, 1, 4, one_of(&["push", "pull"]), "push or pull")?;
    check("HealthCheck.Url", &health.url, 0, usize::MAX, no_blank, NO_BLANKS)?;
    if !(0..=65535).contains(&health.port) {
        return Err(RegistryError::invalid("field 'HealthCheck.Port' is not between 0 and 65535"));
    }
    if health.interval < 1 || health.times < 0 {
        return Err(RegistryError::invalid(
            "field 'HealthCheck.Interval' must be at least 1 and 'Times' at least 0",
        ));
    }
    Ok(())
}

fn data_center(center: &DataCenter) -> Checked {
    check("DataCenterInfo.Name", &center.name, 1, 128, ascii_of("_.-"), ID)?;
    check("DataCenterInfo.Region", &center.region, 1, 128, ascii_of("_.-"), ID)?;
    check("DataCenterInfo.AvailableZone", &center.available_zone, 1, 128, ascii_of("_.-"), ID)
}

pub(super) fn dependency_consumer(consumer: &ServiceKey) -> Checked {
    check("Consumer.AppId", &consumer.app_id, 1, 160, name_form(""), NAME)?;
    check("Consumer.ServiceName", &consumer.service_name, 1, 128, name_form(""), NAME)?;
    version("Consumer.Version", &consumer.version)?;
    environment(&consumer.environment)
}

pub(super) fn dependency_provider(provider: &ServiceKey) -> Checked {
    // The name for everything stands alone; no other field of it is looked at.
    if provider.service_name == "*" {
        return Ok(());
    }
    check("Provider.AppId", &provider.app_id, 0, 160, name_form(""), NAME)?;
    check("Provider.ServiceName", &provider.service_name, 1, 128, name_form(""), NAME_OR_ALL)?;
    environment(&provider.environment)?;
    if provider.version.is_empty() {
        return Err(RegistryError::invalid("Required provider version"));
    }
    version_rule(&provider.version).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(characters: usize) -> String {
        "a".repeat(characters)
    }

    #[test]
    fn each_limit_holds_at_its_edge_and_not_past_it() {
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
        let mut candidate = Instance { host_name: "n".into(), ..Default::default() };
        assert!(instance(&candidate).is_ok());
        candidate.data_center_info = Some(DataCenter { name: "dc".into(), ..Default::default() });
        assert!(instance(&candidate).is_err());
    }
}
