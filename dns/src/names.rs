//! The names below the zone: which part of which service a question is about.
//!
//! In: the labels of a question, without those of the zone. Out: the ways in which they can be read. A
//! service is `service.app` or `service.app.env`; before it may stand a part of it:
//!
//! | name | part |
//! | --- | --- |
//! | `1-2-0.version.…` | the instances of one version |
//! | `value.key.tag.…` | the instances with a property |
//! | `id.instance.…` | one instance |
//! | `address.id.instance.…` | one of the addresses of an instance that has several |
//! | `_rest._tcp.` before any of these | the endpoints with one protocol |
//!
//! Most names can be read in one way. Some can be read in two, because the environment may be missing: the
//! zone takes the first reading whose service is registered.

/// The part of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    /// All of it.
    Whole,
    /// The instances of a version.
    Version(&'a str),
    /// The instances with a property.
    Tag { value: &'a str, key: &'a str },
    /// An instance.
    Instance(&'a str),
    /// One of the addresses of an instance.
    Host { address: &'a str, instance: &'a str },
    /// Nothing itself, but there are names below it whenever the service exists.
    Above,
    /// Nothing itself, but there are names below it if an instance has this property.
    AboveTag(&'a str),
}

/// A way to read a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading<'a> {
    pub(crate) part: Part<'a>,
    /// The service: two or three labels with dots between them.
    pub(crate) service: &'a str,
}

/// A name below the zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    /// The protocol of the endpoints that are asked for; `None` for all.
    pub(crate) protocol: Option<&'a str>,
    /// The name has the label `_tcp` without a protocol before it.
    pub(crate) is_above_protocol: bool,
    /// The rest of the name, with dots between its labels; empty for the zone itself.
    pub(crate) rest: &'a str,
}

impl<'a> Asked<'a> {
    /// Takes the protocol off a name: labels in lower case with dots between them.
    pub(crate) fn read(name: &'a str) -> Self {
        let plain = Self { protocol: None, is_above_protocol: false, rest: name };
        if let Some(rest) = name.strip_prefix("_tcp.") {
            return Self { is_above_protocol: true, rest, ..plain };
        }
        let protocol = name.strip_prefix('_').and_then(|name| name.split_once("._tcp."));
        match protocol {
            Some((protocol, rest)) if !protocol.is_empty() && !protocol.contains('.') => {
                Self { protocol: Some(protocol), rest, ..plain }
            }
            _ => plain,
        }
    }

    /// The ways to read the rest of the name as a part of a service, the first one that applies counts.
    pub(crate) fn readings(&self) -> impl Iterator<Item = Reading<'a>> + use<'a> {
        let rest = self.rest;
        let count = if rest.is_empty() { 0 } else { rest.split('.').count() };
        let after = move |labels: usize| rest.splitn(labels + 1, '.').nth(labels).unwrap_or("");
        let at = move |index: usize| rest.split('.').nth(index).unwrap_or("");
        let (first, second, third) = (at(0), at(1), at(2));
        let reading = move |applies: bool, part, service| applies.then_some(Reading { part, service });
        let has = |labels: usize| count == labels + 2 || count == labels + 3;
        [
            reading(has(0), Part::Whole, rest),
            reading(has(2) && second == "version", Part::Version(first), after(2)),
            reading(has(2) && second == "instance", Part::Instance(first), after(2)),
            reading(has(3) && third == "tag", Part::Tag { value: first, key: second }, after(3)),
            reading(has(3) && third == "instance", Part::Host { address: first, instance: second }, after(3)),
            reading(has(1) && matches!(first, "version" | "tag" | "instance"), Part::Above, after(1)),
            reading(has(2) && second == "tag", Part::AboveTag(first), after(2)),
        ]
        .into_iter()
        .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(name: &str) -> Vec<(Part<'_>, &str)> {
        let asked = Asked::read(name);
        asked.readings().map(|reading| (reading.part, reading.service)).collect()
    }

    #[test]
    fn most_names_are_read_in_one_way() {
        for (name, part, service) in [
            ("order.shop", Part::Whole, "order.shop"),
            ("order.shop.production", Part::Whole, "order.shop.production"),
            ("1-2-0.version.order.shop", Part::Version("1-2-0"), "order.shop"),
            ("1-2-0.version.order.shop.production", Part::Version("1-2-0"), "order.shop.production"),
            ("blue.color.tag.order.shop", Part::Tag { value: "blue", key: "color" }, "order.shop"),
            ("i.instance.order.shop", Part::Instance("i"), "order.shop"),
            (
                "10-0-0-1.i.instance.order.shop",
                Part::Host { address: "10-0-0-1", instance: "i" },
                "order.shop",
            ),
            ("color.tag.order.shop", Part::AboveTag("color"), "order.shop"),
            ("tag.order.shop.production", Part::Above, "order.shop.production"),
        ] {
            assert_eq!(readings(name), [(part, service)], "{name}");
        }
    }

    #[test]
    fn a_name_without_an_environment_may_be_read_in_two_ways() {
        let both = readings("version.order.shop");
        assert_eq!(both, [(Part::Whole, "version.order.shop"), (Part::Above, "order.shop")]);
        let both = readings("a.version.tag.order.shop");
        let tag = Part::Tag { value: "a", key: "version" };
        assert_eq!(both, [(Part::Version("a"), "tag.order.shop"), (tag, "order.shop")]);
    }

    #[test]
    fn a_protocol_stands_before_a_name() {
        let asked = Asked::read("_rest._tcp.order.shop");
        assert_eq!((asked.protocol, asked.rest), (Some("rest"), "order.shop"));
        let above = Asked::read("_tcp.order.shop");
        assert!(above.is_above_protocol && above.rest == "order.shop");
        for plain in ["_rest.order.shop", "_._tcp.order.shop", "rest._tcp.order.shop", ""] {
            assert_eq!(Asked::read(plain).rest, plain);
        }
    }

    #[test]
    fn names_that_are_too_short_or_too_long_have_no_reading() {
        for name in ["", "shop", "a.b.c.d", "a.b.c.d.e", "a.b.tag.c.d.e.f.g"] {
            assert_eq!(readings(name), [], "{name}");
        }
    }
}
