//! The values that were set in flags, environment and file.
//!
//! [`Sources`] is a plain value: a test builds one by hand and needs no process with arguments and variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ArgMatches;

use super::declared::Declared;
use super::origin::{CONFIG, Origin, variable_of};
use super::service_center::{self, Translated};
use super::text::text_of;
use super::{Kind, Mistake, Mistakes};

/// A value before it is parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    /// A switch, a number with a point, or a date of a file, as this program writes it: a text that was meant
    /// instead may have been another one (`1.10`).
    Bare(String),
    List(Vec<String>),
}

/// All values that any source sets.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    flags: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    file: Option<(String, BTreeMap<String, Raw>)>,
    /// The values from Service-Center's variables and its file, under our keys.
    service_center: Translated,
}

impl Sources {
    /// Adds the flag of the setting `key`.
    #[must_use]
    pub fn with_flag(mut self, key: &str, value: impl Into<String>) -> Self {
        self.flags.insert(key.to_owned(), value.into());
        self
    }

    /// Adds the environment variable `name`.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// Adds the content of a file called `name`: YAML of Service-Center when the name ends in `.yaml` or
    /// `.yml`, else TOML.
    ///
    /// # Errors
    /// When the text is not TOML (or YAML), or a list in it holds tables or lists.
    pub fn with_file(mut self, name: &str, text: &str) -> Result<Self, Mistakes> {
        if name.ends_with(".yaml") || name.ends_with(".yml") {
            let of_file =
                service_center::file(name, text).map_err(|problem| mistake_in(name, "", problem))?;
            // As in Service-Center, a variable wins over the file.
            self.service_center = of_file.below(self.service_center);
            return Ok(self);
        }
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| mistake_in(name, "", e.to_string()))?;
        let mut values = BTreeMap::new();
        flatten("", table, &mut values).map_err(|(key, problem)| mistake_in(name, &key, problem))?;
        self.file = Some((name.to_owned(), values));
        Ok(self)
    }

    /// Collects the arguments in `matches`, the environment as `lookup` returns it, and the file that one
    /// of them names.
    ///
    /// # Errors
    /// When the file cannot be read, or as [`Sources::with_file`].
    pub(super) fn of_process(
        matches: &ArgMatches,
        declared: &[Declared],
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Mistakes> {
        let mut sources = Self::default();
        for setting in declared {
            if let Some(values) = matches.get_many::<String>(&setting.key) {
                // A list may be one flag with commas, or the flag repeated: both become the same text here.
                let values: Vec<_> = values.map(String::as_str).collect();
                sources.flags.insert(setting.key.clone(), values.join(","));
            }
            for name in std::iter::once(setting.key.as_str()).chain(setting.alias) {
                let variable = variable_of(name);
                if let Some(value) = lookup(&variable) {
                    sources.variables.insert(variable, value);
                }
            }
        }
        sources.service_center = service_center::variables(&lookup);
        let Some((path, origin)) = file_of(matches, lookup) else { return Ok(sources) };
        let text = text_of(&path).map_err(|e| {
            let problem = format!("cannot read `{}`: {e}", path.display());
            Mistakes(vec![Mistake { origin, key: CONFIG.to_owned(), problem }])
        })?;
        sources.with_file(&path.display().to_string(), &text)
    }

    /// The value of `key` with the highest rank, and its source.
    pub(super) fn find(&self, key: &str, alias: Option<&str>) -> Option<(Raw, Origin)> {
        if let Some(value) = self.flags.get(key) {
            return Some((Raw::Text(value.clone()), Origin::Flag));
        }
        for name in std::iter::once(key).chain(alias) {
            // Compose files and charts often pass every variable on, empty when the operator has not set it.
            if let Some(value) = self.variables.get(&variable_of(name)).filter(|value| !value.is_empty()) {
                return Some((Raw::Text(value.clone()), Origin::Variable));
            }
        }
        if let Some(value) = self.service_center.values.get(key) {
            let origin = Origin::ServiceCenter { name: value.name.clone(), ambient: value.ambient };
            return Some((Raw::Text(value.text.clone()), origin));
        }
        let (name, values) = self.file.as_ref()?;
        Some((values.get(key)?.clone(), Origin::File(name.clone())))
    }

    /// Warnings about settings of Service-Center that have no effect here.
    pub(super) fn notes(&self) -> Vec<String> {
        self.service_center.notes.clone()
    }

    /// A mistake for each key of the file that is not declared.
    pub(super) fn unknown_keys(&self, declared: &[Declared]) -> Vec<Mistake> {
        let Some((name, values)) = &self.file else { return Vec::new() };
        let mut mistakes = Vec::new();
        for key in values.keys().filter(|key| declared.iter().all(|setting| setting.key != **key)) {
            mistakes.push(Mistake {
                origin: Origin::File(name.clone()),
                key: key.clone(),
                problem: problem_of_unknown_key(key, declared),
            });
        }
        mistakes
    }
}

fn problem_of_unknown_key(key: &str, declared: &[Declared]) -> String {
    if let Some(setting) = declared.iter().find(|setting| setting.alias == Some(key)) {
        return format!("it is called `{}` in a file", setting.key);
    }
    let nearest = declared
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(&a.key, key).total_cmp(&strsim::jaro_winkler(&b.key, key)));
    match nearest {
        // Below 0.8 the proposal is as likely to mislead as to help.
        Some(setting) if strsim::jaro_winkler(&setting.key, key) > 0.8 => {
            format!("there is no such setting; did you mean `{}`?", setting.key)
        }
        _ => "there is no such setting".to_owned(),
    }
}

fn mistake_in(file: &str, key: &str, problem: String) -> Mistakes {
    Mistakes(vec![Mistake { origin: Origin::File(file.to_owned()), key: key.to_owned(), problem }])
}

/// The path of the configuration file, and the source that names it.
pub(super) fn file_of(
    matches: &ArgMatches,
    lookup: impl Fn(&str) -> Option<String>,
) -> Option<(PathBuf, Origin)> {
    match matches.get_one::<String>(CONFIG) {
        Some(path) => Some((PathBuf::from(path), Origin::Flag)),
        None => {
            let path = lookup(&variable_of(CONFIG)).filter(|path| !path.is_empty())?;
            Some((PathBuf::from(path), Origin::Variable))
        }
    }
}

impl Raw {
    /// True when a value of `kind` has to be in quotes, and this one is not.
    pub(super) fn lacks_quotes(&self, kind: Kind) -> bool {
        kind == Kind::Text && matches!(self, Self::Bare(_))
    }

    /// The text to be parsed as a value of `kind`; lists are joined with commas.
    ///
    /// # Errors
    /// The problem in words, when a list is in the wrong place or cannot be joined.
    pub(super) fn into_text(self, kind: Kind) -> Result<String, &'static str> {
        match self {
            Self::Text(text) | Self::Bare(text) => Ok(text),
            Self::List(_) if kind != Kind::List => Err("a list is not expected here"),
            Self::List(entries) if entries.iter().any(|entry| entry.contains(',')) => {
                // Joined, such an entry would silently become two.
                Err("an entry of a list may not contain a comma")
            }
            Self::List(entries) => Ok(entries.join(",")),
        }
    }
}

/// Puts every value of `table` into `values` under its whole key: `[watch] ping-interval` as
/// `watch.ping-interval`.
fn flatten(
    prefix: &str,
    table: toml::Table,
    values: &mut BTreeMap<String, Raw>,
) -> Result<(), (String, String)> {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(table) => flatten(&key, table, values)?,
            toml::Value::Array(entries) => {
                let entries: Option<Vec<String>> = entries.into_iter().map(scalar).collect();
                let entries = entries.ok_or((key.clone(), "a list may only hold plain values".to_owned()))?;
                values.insert(key, Raw::List(entries));
            }
            // The parser of the setting decides about the text.
            plain => {
                // Whole numbers count as texts: names and sizes in bytes may be some.
                let is_text = matches!(plain, toml::Value::String(_) | toml::Value::Integer(_));
                if let Some(text) = scalar(plain) {
                    values.insert(key, if is_text { Raw::Text(text) } else { Raw::Bare(text) });
                }
            }
        }
    }
    Ok(())
}

fn scalar(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(bool) => Some(bool.to_string()),
        toml::Value::Datetime(time) => Some(time.to_string()),
        toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}
