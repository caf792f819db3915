//! The traffic that an instance takes, by its status and its weight. Every dialect says it in its own words.

use super::Instance;

/// The property with the share of traffic that an instance is to get, from 0 to 100.
pub const WEIGHT: &str = "weight";
/// The weight of an instance without the property.
pub const FULL_WEIGHT: u8 = 100;
/// The status of instances that take traffic.
pub const UP: &str = "UP";

impl Instance {
    /// The status in the form that clients are told. None means `UP`, as for Service-Center.
    pub fn told_status(&self) -> &str {
        if self.status.is_empty() { UP } else { &self.status }
    }

    /// The weight. A text that is none must not take an instance out of traffic.
    pub fn weight(&self) -> u8 {
        let weight = self.properties.get(WEIGHT).and_then(|text| text.trim().parse().ok());
        weight.filter(|weight| *weight <= FULL_WEIGHT).unwrap_or(FULL_WEIGHT)
    }

    /// True for an instance that requests may be sent to.
    pub fn takes_traffic(&self) -> bool {
        is_up(&self.status) && self.weight() > 0
    }
}

/// True for the status of an instance that is up. Stores of other writers have it in small letters, too.
pub fn is_up(status: &str) -> bool {
    status.is_empty() || status.eq_ignore_ascii_case(UP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_is_up_and_weighs_something_is_called() {
        for (status, weight, expected) in [
            ("", None, true),
            ("UP", None, true),
            ("up", None, true),
            ("UP", Some("1"), true),
            ("UP", Some("0"), false),
            ("UP", Some(" 0 "), false),
            ("DOWN", None, false),
            ("STARTING", None, false),
            ("TESTING", Some("100"), false),
            ("OUTOFSERVICE", None, false),
        ] {
            let properties = weight.map(|weight| (WEIGHT.to_owned(), weight.to_owned()));
            let instance = Instance {
                status: status.into(),
                properties: properties.into_iter().collect(),
                ..Instance::default()
            };
            assert_eq!(instance.takes_traffic(), expected, "{status} {weight:?}");
        }
    }

    #[test]
    fn a_weight_that_is_none_counts_as_full() {
        for (text, weight) in [
            ("0", 0),
            (" 30 ", 30),
            ("100", 100),
            ("101", 100),
            ("300", 100),
            ("-1", 100),
            ("0.5", 100),
            ("", 100),
            ("x", 100),
        ] {
            let properties = [(WEIGHT.to_owned(), text.to_owned())].into();
            assert_eq!(Instance { properties, ..Instance::default() }.weight(), weight, "{text}");
        }
        assert_eq!(Instance::default().weight(), FULL_WEIGHT);
    }
}
