//! Queries of requests, read as both planes read them.

use std::borrow::Cow;

/// The parameters of a query, in order.
///
/// A list, because the length of a query is bounded: searching a few parameters is cheaper than making a map.
#[derive(Clone, Debug, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Reads the text after the question mark.
    pub fn parse(query: &'a str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).collect())
    }

    /// A parameter; empty when it is absent. If it is repeated the first counts.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// True for a parameter that is `1` or `true` in any case.
    pub fn flag(&self, name: &str) -> bool {
        is_set(self.get(name))
    }

    /// The parameters with owned texts.
    pub fn into_owned(self) -> Vec<(String, String)> {
        self.0.into_iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
    }
}

/// True for a flag's value `1` or `true` in any case.
pub fn is_set(value: &str) -> bool {
    value == "1" || value.eq_ignore_ascii_case("true")
}
