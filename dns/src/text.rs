//! The texts of a service or an instance, each `key=value`.

use std::fmt::Display;

use hickory_proto::rr::rdata::TXT;

use crate::group::Member;
use crate::select::Selection;

/// The longest text of DNS.
const LONGEST: usize = 255;
/// The most texts of one instance: an instance may have any number of properties, and an answer may not.
const MOST: usize = 64;

/// The records of a part of a service: one for each version, or one for each instance if one is asked for.
pub(crate) fn of(selection: &Selection<'_>) -> Vec<TXT> {
    if selection.is_instance {
        return selection.members().map(|member| of_instance(selection, member)).collect();
    }
    let versions = &selection.group.versions;
    let mut counts = vec![0_usize; versions.len()];
    for member in selection.members() {
        counts[member.version] += 1;
    }
    let counted = versions.iter().zip(counts).enumerate();
    // A version without instances is told where it is asked for, or where all are.
    let told = counted.filter(|(place, (_, count))| match selection.version {
        Some(only) => *place == only || *count > 0,
        None => selection.is_whole() || *count > 0,
    });
    told.map(|(_, (version, count))| TXT::new(vec![text("version", &version.text), text("instances", count)]))
        .collect()
}

fn of_instance(selection: &Selection<'_>, member: &Member) -> TXT {
    let instance = &member.instance;
    let version = &selection.group.versions[member.version].text;
    let mut texts = vec![text("id", &instance.instance_id), text("version", version)];
    if !instance.host_name.is_empty() {
        texts.push(text("host", &instance.host_name));
    }
    texts.push(text("weight", member.weight));
    let endpoints = instance.endpoints.iter().map(|endpoint| text("endpoint", endpoint));
    let properties = instance.properties.iter().map(|(key, value)| text(&format!("property.{key}"), value));
    texts.extend(endpoints.chain(properties).take(MOST));
    TXT::new(texts)
}

fn text(key: &str, value: impl Display) -> String {
    let mut text = format!("{key}={value}");
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    }
    text
}
