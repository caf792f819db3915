//! Eureka's XML, as its older clients and those in other languages read it. It is only written: every client
//! of today registers in JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::apps::{Application, Listed};
use super::json::Detail;
use super::model::{ActionType, Info, Port, Status};

/// All applications with their hash and version.
pub(crate) fn applications(listed: &Listed<'_>, detail: Detail) -> Vec<u8> {
    let mut xml = Xml::default();
    xml.within("applications", |xml| {
        xml.element("versions__delta", &listed.version.to_string());
        xml.element("apps__hashcode", &listed.hash);
        listed.applications.iter().for_each(|application| xml.application(application, detail));
    });
    xml.0.into_bytes()
}

/// One application.
pub(crate) fn application(application: &Application<'_>, detail: Detail) -> Vec<u8> {
    let mut xml = Xml::default();
    xml.application(application, detail);
    xml.0.into_bytes()
}

/// One instance.
pub(crate) fn instance(info: &Info, action: ActionType, detail: Detail) -> Vec<u8> {
    let mut xml = Xml::default();
    xml.instance(info, action, detail);
    xml.0.into_bytes()
}

#[derive(Default)]
struct Xml(String);

impl Xml {
    fn application(&mut self, application: &Application<'_>, detail: Detail) {
        self.within("application", |xml| {
            xml.element("name", application.name);
            for (info, action) in &application.instances {
                xml.instance(info, *action, detail);
            }
        });
    }

    fn instance(&mut self, info: &Info, action: ActionType, detail: Detail) {
        let is_full = detail == Detail::Full;
        self.within("instance", |xml| {
            xml.given("instanceId", &info.instance_id);
            xml.given("hostName", &info.host_name);
            xml.given("app", &info.app);
            xml.given("ipAddr", &info.ip_addr);
            if is_full {
                xml.given("sid", &info.sid);
                xml.given("appGroupName", &info.app_group_name);
            }
            xml.element("status", info.status.word());
            if is_full {
                xml.element("overriddenstatus", info.overridden.unwrap_or(Status::Unknown).word());
            }
            xml.port("port", info.port);
            xml.port("securePort", info.secure_port);
            if is_full {
                xml.element("countryId", &info.country_id.to_string());
            }
            xml.within_marked("dataCenterInfo", ("class", &info.place.class), |xml| {
                xml.element("name", &info.place.name);
                if !info.place.metadata.is_empty() {
                    xml.within("metadata", |xml| xml.entries(&info.place.metadata));
                }
            });
            if is_full {
                xml.lease(info);
                xml.within("metadata", |xml| xml.entries(&info.metadata));
                xml.given("homePageUrl", &info.home_page_url);
                xml.given("statusPageUrl", &info.status_page_url);
                xml.given("healthCheckUrl", &info.health_check_url);
                xml.given("secureHealthCheckUrl", &info.secure_health_check_url);
            }
            xml.given("vipAddress", &info.vip_address);
            xml.given("secureVipAddress", &info.secure_vip_address);
            if is_full {
                let is_coordinating = if info.is_coordinating { "true" } else { "false" };
                xml.element("isCoordinatingDiscoveryServer", is_coordinating);
            }
            xml.element("lastUpdatedTimestamp", &info.last_updated.to_string());
            if is_full {
                xml.element("lastDirtyTimestamp", &info.last_dirty.to_string());
            }
            xml.element("actionType", action.word());
            xml.given("asgName", &info.asg_name);
        });
    }

    fn lease(&mut self, info: &Info) {
        self.within("leaseInfo", |xml| {
            for (name, value) in [
                ("renewalIntervalInSecs", u64::from(info.lease.renewal)),
                ("durationInSecs", u64::from(info.lease.duration)),
                ("registrationTimestamp", info.registered),
                ("lastRenewalTimestamp", info.last_updated),
                ("evictionTimestamp", 0),
                ("serviceUpTimestamp", info.registered),
            ] {
                xml.element(name, &value.to_string());
            }
        });
    }

    fn port(&mut self, name: &str, port: Port) {
        let enabled = if port.enabled { "true" } else { "false" };
        let number = port.number.to_string();
        self.within_marked(name, ("enabled", enabled), |xml| xml.text(&number));
    }

    /// The entries as elements. A key that can be no name of an element is left out: it would make the whole
    /// document unreadable.
    fn entries(&mut self, entries: &BTreeMap<String, String>) {
        for (name, value) in entries.iter().filter(|(name, _)| is_name(name)) {
            self.element(name, value);
        }
    }

    /// An element, if there is something to say.
    fn given(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.element(name, value);
        }
    }

    fn element(&mut self, name: &str, value: &str) {
        self.within(name, |xml| xml.text(value));
    }

    fn within(&mut self, name: &str, content: impl FnOnce(&mut Self)) {
        let _ = write!(self.0, "<{name}>");
        content(self);
        let _ = write!(self.0, "</{name}>");
    }

    fn within_marked(&mut self, name: &str, mark: (&str, &str), content: impl FnOnce(&mut Self)) {
        let _ = write!(self.0, "<{name} {}=\"", mark.0);
        self.text(mark.1);
        self.0.push_str("\">");
        content(self);
        let _ = write!(self.0, "</{name}>");
    }

    fn text(&mut self, text: &str) {
        for letter in text.chars() {
            match letter {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' => self.0.push_str("&quot;"),
                // Written as they are, these would be read as blanks or as other ends of lines.
                '\t' | '\n' | '\r' => _ = write!(self.0, "&#{};", u32::from(letter)),
                // XML 1.0 has no form for the others.
                '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => self.0.push('\u{fffd}'),
                _ => self.0.push(letter),
            }
        }
    }
}

/// True for a text that can be the name of an element everywhere.
fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}
