//! Where values come from: flags, environment, file. A value itself, so that tests need no process around them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ArgMatches;

use super::declared::Declared;
use super::origin::{CONFIG, Origin, variable_of};
use super::service_center::{self, Translated};
use super::{Kind, Mistake, Mistakes};

/// A value as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    Text(String),
    List(Vec<String>),
}

/// All values that were set somewhere.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    flags: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    file: Option<(String, BTreeMap<String, Raw>)>,
    /// What Service-Center's variables, and its file, say.
    foreign: Translated,
}

impl Sources {
    /// With the flag of the setting `key`.
    #[must_use]
    pub fn with_flag(mut self, key: &str, value: impl Into<String>) -> Self {
        self.flags.insert(key.to_owned(), value.into());
        self
    }

    /// With the environment variable `name`.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// With the content of a file called `name`.
    ///
    /// A name that ends in `.yaml` or `.yml` is that of Service-Center's own file.
    ///
    /// # Errors
    /// When it is not TOML (or YAML), or holds what no setting can be.
    pub fn with_file(mut self, name: &str, text: &str) -> Result<Self, Mistakes> {
        let wrong = |key: &str, problem: String| {
            Mistakes(vec![Mistake { origin: Origin::File(name.to_owned()), key: key.to_owned(), problem }])
        };
        if name.ends_with(".yaml") || name.ends_with(".yml") {
            let of_file = service_center::file(name, text).map_err(|problem| wrong("", problem))?;
            // The environment counts more.
            self.foreign = of_file.below(self.foreign);
            return Ok(self);
        }
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| wrong("", e.to_string()))?;
        let mut values = BTreeMap::new();
        flatten("", table, &mut values).map_err(|(key, problem)| wrong(&key, problem))?;
        self.file = Some((name.to_owned(), values));
        Ok(self)
    }

    /// The arguments in `matches`, the environment that `lookup` knows, and the file that either names.
    pub(super) fn of_process(
        matches: &ArgMatches,
        declared: &[Declared],
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Mistakes> {
        let mut sources = Self::default();
        for it in declared {
            if let Some(values) = matches.get_many::<String>(&it.key) {
                let values: Vec<_> = values.map(String::as_str).collect();
                sources.flags.insert(it.key.clone(), values.join(","));
            }
            for name in std::iter::once(it.key.as_str()).chain(it.alias) {
                let variable = variable_of(name);
                if let Some(value) = lookup(&variable) {
                    sources.variables.insert(variable, value);
                }
            }
        }
        sources.foreign = service_center::variables(&lookup);
        let Some((path, origin)) = file_of(matches, lookup) else { return Ok(sources) };
        let text = std::fs::read_to_string(&path).map_err(|e| {
            let problem = format!("cannot read `{}`: {e}", path.display());
            Mistakes(vec![Mistake { origin, key: CONFIG.to_owned(), problem }])
        })?;
        sources.with_file(&path.display().to_string(), &text)
    }

    /// The value of `key` that counts.
    pub(super) fn find(&self, key: &str, alias: Option<&str>) -> Option<(Raw, Origin)> {
        if let Some(value) = self.flags.get(key) {
            return Some((Raw::Text(value.clone()), Origin::Flag));
        }
        for name in std::iter::once(key).chain(alias) {
            if let Some(value) = self.variables.get(&variable_of(name)).filter(|value| !value.is_empty()) {
                return Some((Raw::Text(value.clone()), Origin::Variable));
            }
        }
        if let Some(it) = self.foreign.values.get(key) {
            let origin = Origin::Foreign { name: it.name.clone(), ambient: it.ambient };
            return Some((Raw::Text(it.text.clone()), origin));
        }
        let (name, values) = self.file.as_ref()?;
        Some((values.get(key)?.clone(), Origin::File(name.clone())))
    }

    /// What Service-Center's settings deserve to be said about.
    pub(super) fn notes(&self) -> Vec<String> {
        self.foreign.notes.clone()
    }

    /// A mistake for each key of the file that nobody declared.
    pub(super) fn unknown_keys(&self, declared: &[Declared]) -> Vec<Mistake> {
        let Some((name, values)) = &self.file else { return Vec::new() };
        let unknown = values.keys().filter(|key| declared.iter().all(|it| it.key != **key));
        unknown
            .map(|key| {
                let nearest = declared.iter().max_by(|a, b| {
                    strsim::jaro_winkler(&a.key, key).total_cmp(&strsim::jaro_winkler(&b.key, key))
                });
                let alias = declared.iter().find(|it| it.alias == Some(key.as_str()));
                let problem = match alias.or(nearest) {
                    Some(it) if alias.is_some() => format!("it is called `{}` in a file", it.key),
                    Some(it) if strsim::jaro_winkler(&it.key, key) > 0.8 => {
                        format!("there is no such setting; did you mean `{}`?", it.key)
                    }
                    _ => "there is no such setting".to_owned(),
                };
                Mistake { origin: Origin::File(name.clone()), key: key.clone(), problem }
            })
            .collect()
    }
}

/// The file that the command line or the environment names.
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
    /// The text to be parsed as a value of `kind`.
    pub(super) fn into_text(self, kind: Kind) -> Result<String, &'static str> {
        match self {
            Self::Text(text) => Ok(text),
            Self::List(_) if kind != Kind::List => Err("a list is not expected here"),
            Self::List(entries) if entries.iter().any(|it| it.contains(',')) => {
                Err("an entry of a list may not contain a comma")
            }
            Self::List(entries) => Ok(entries.join(",")),
        }
    }
}

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
            plain => {
                if let Some(text) = scalar(plain) {
                    values.insert(key, Raw::Text(text));
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
