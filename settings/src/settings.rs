//! Reading a setting declares it: a program has exactly the settings that its `Config` types read.
//!
//! In: [`Sources`]. Out: typed values, the list of declarations, mistakes and notes.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::declared::Declared;
use super::origin::flag_of;
use super::{Mistake, Mistakes, Origin, Setting, Sources};

/// Returns values, and collects declarations and mistakes.
///
/// Keys are lower-case words with dashes, in at most one section: `listen`, `watch.ping-interval`. A key may
/// be declared twice in the same way (two rooms of a process share a setting); both get the same value.
#[derive(Debug)]
pub struct Settings<'a> {
    sources: &'a Sources,
    section: Option<&'static str>,
    live: bool,
    aliases: BTreeMap<&'static str, &'static str>,
    defaults: BTreeMap<&'static str, &'static str>,
    declared: Vec<Declared>,
    mistakes: Vec<Mistake>,
    notes: Vec<String>,
}

impl<'a> Settings<'a> {
    pub(super) fn new(sources: &'a Sources) -> Self {
        Self {
            sources,
            section: None,
            live: false,
            aliases: BTreeMap::new(),
            defaults: BTreeMap::new(),
            declared: Vec::new(),
            mistakes: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The value of `key`, or else `default`. `help` is a sentence that says what the setting does,
    /// with its unit. After a mistake the default is returned, so that the rest of the configuration
    /// can be checked too.
    ///
    /// # Panics
    /// When the default is no value of the type. Every start would show this mistake in the program.
    pub fn get<T: Setting>(&mut self, key: &str, default: &'static str, help: &'static str) -> T {
        let default = self.default_of(key, default);
        self.any_value(key, default, help)
    }

    /// Like [`Settings::get`], with a default that the program also uses as a value, so that it is written
    /// once. The help shows its text form ([`Setting::show`]), therefore it must not contain a secret.
    ///
    /// # Panics
    /// When the text form of the default cannot be read back.
    pub fn get_or<T: Setting>(&mut self, key: &str, default: T, help: &'static str) -> T {
        let default = self.text_of_default(key, &default);
        self.any_value(key, &default, help)
    }

    /// Like [`Settings::get`], for a value in a range. The ends of the range are allowed values,
    /// written as texts.
    ///
    /// # Panics
    /// When the default or an end of the range is no value of the type.
    pub fn within<T: Setting + PartialOrd>(
        &mut self,
        key: &str,
        default: &'static str,
        range: RangeInclusive<&'static str>,
        help: &'static str,
    ) -> T {
        let default = self.default_of(key, default);
        self.value_in_range(key, default, range, help)
    }

    /// Like [`Settings::within`], with a default that the program also uses as a value: see
    /// [`Settings::get_or`].
    ///
    /// # Panics
    /// When the text form of the default cannot be read back, or an end of the range is no value of the type.
    pub fn within_or<T: Setting + PartialOrd>(
        &mut self,
        key: &str,
        default: T,
        range: RangeInclusive<&'static str>,
        help: &'static str,
    ) -> T {
        let default = self.text_of_default(key, &default);
        self.value_in_range(key, &default, range, help)
    }

    /// The value of `key`, or `None` when no source sets it.
    pub fn optional<T: Setting>(&mut self, key: &str, help: &'static str) -> Option<T> {
        self.read(key, None, help, T::expected(), T::parse)
    }

    /// Runs `read` with `section` as the section of all keys that have none: `listen` becomes `admin.listen`.
    pub fn section<C>(&mut self, section: &'static str, read: impl FnOnce(&mut Self) -> C) -> C {
        let outer = self.section.replace(section);
        let value = read(self);
        self.section = outer;
        value
    }

    /// Declares that new values of the settings in `read` take effect while the process runs.
    pub fn live<C>(&mut self, read: impl FnOnce(&mut Self) -> C) -> C {
        let outer = std::mem::replace(&mut self.live, true);
        let value = read(self);
        self.live = outer;
        value
    }

    /// Gives `key` a second, shorter name as a flag and as a variable. Must be called before `key` is read.
    pub fn alias(&mut self, key: &'static str, alias: &'static str) {
        self.aliases.insert(key, alias);
    }

    /// Replaces the default of `key`, for a program that needs another one. Must be called before
    /// `key` is read.
    pub fn set_default(&mut self, key: &'static str, default: &'static str) {
        self.defaults.insert(key, default);
    }

    /// Reports a mistake that shows only when several settings are compared. `key` names the one to be
    /// changed; the message points to the source of its value.
    pub fn mistake(&mut self, key: &str, problem: impl Into<String>) {
        let key = self.full_key(key);
        let declared = self.declared.iter().find(|setting| setting.key == key);
        let origin = declared.map_or(Origin::Default, |setting| setting.origin.clone());
        self.mistakes.push(Mistake { origin, key, problem: problem.into() });
    }

    pub(super) fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// The declarations and the notes for the operator.
    ///
    /// # Errors
    /// All mistakes, those of the sources included.
    pub(super) fn finish(mut self) -> Result<(Vec<Declared>, Vec<String>), Mistakes> {
        // Unknown keys can only be told from known ones now, when everything has been declared.
        self.mistakes.extend(self.sources.unknown_keys(&self.declared));
        self.notes.extend(self.sources.notes());
        if self.mistakes.is_empty() { Ok((self.declared, self.notes)) } else { Err(Mistakes(self.mistakes)) }
    }

    fn full_key(&self, key: &str) -> String {
        // A key with a section keeps it, so that a shared room's settings have one name in every program.
        match self.section {
            Some(section) if !key.contains('.') => format!("{section}.{key}"),
            _ => key.to_owned(),
        }
    }

    fn default_of(&self, key: &str, default: &'static str) -> &'static str {
        self.defaults.get(self.full_key(key).as_str()).copied().unwrap_or(default)
    }

    fn text_of_default<T: Setting>(&self, key: &str, default: &T) -> String {
        match self.defaults.get(self.full_key(key).as_str()) {
            Some(replaced) => (*replaced).to_owned(),
            None => default.show(),
        }
    }

    fn any_value<T: Setting>(&mut self, key: &str, default: &str, help: &'static str) -> T {
        let value = self.read(key, Some(default), help, T::expected(), T::parse);
        value.unwrap_or_else(|| T::parse(default).expect("a default is a value of its type"))
    }

    fn value_in_range<T: Setting + PartialOrd>(
        &mut self,
        key: &str,
        default: &str,
        range: RangeInclusive<&'static str>,
        help: &'static str,
    ) -> T {
        let least = T::parse(range.start()).expect("the start of a range is a value of its type");
        let most = T::parse(range.end()).expect("the end of a range is a value of its type");
        let expected = format!("{} from {} to {}", T::expected_in_range(), range.start(), range.end());
        // The default goes through the same check: one outside of its range fails the first start.
        let value = self.read(key, Some(default), help, expected, |text| {
            T::parse(text).filter(|value| *value >= least && *value <= most)
        });
        value.unwrap_or_else(|| T::parse(default).expect("a default is a value of its type"))
    }

    fn read<T: Setting>(
        &mut self,
        key: &str,
        default: Option<&str>,
        help: &'static str,
        expected: String,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let key = self.full_key(key);
        let alias = self.aliases.get(key.as_str()).copied();
        let found = self.sources.find(&key, alias);
        let lacks_quotes = found.as_ref().is_some_and(|(raw, _)| raw.lacks_quotes(T::KIND));
        let (text, origin) = match found {
            Some((raw, origin)) => (raw.into_text(T::KIND).map(Some), origin),
            None => (Ok(default.map(str::to_owned)), Origin::Default),
        };
        let parsed = match text {
            Err(problem) => Err(problem.to_owned()),
            Ok(None) => Ok(None),
            Ok(Some(text)) => match parse(&text) {
                // A path of `true` was meant as a switch, and its file would be named so.
                Some(_) if lacks_quotes => Err(format!("expected {expected}, in quotes")),
                Some(value) => Ok(Some(value)),
                // The message is printed and logged, so it must not repeat a secret.
                None if T::SECRET => Err(format!("expected {expected}")),
                None => Err(format!("`{text}` is not valid; expected {expected}")),
            },
        };
        let value = match parsed {
            Ok(value) => value,
            Err(problem) => {
                self.refuse(&key, &origin, problem);
                None
            }
        };
        let declared = Declared {
            help,
            default: default.map(str::to_owned),
            expected,
            value_name: T::NAME,
            kind: T::KIND,
            alias,
            live: self.live,
            shown: value.as_ref().map(T::show),
            origin,
            key,
        };
        self.declare(declared);
        value
    }

    fn refuse(&mut self, key: &str, origin: &Origin, problem: String) {
        match origin {
            // Orchestrators set variables of such general names for purposes of their own (Kubernetes
            // makes `SERVER_PORT=tcp://…` for a service called `server`). They must not keep a process
            // from starting.
            Origin::ServiceCenter { name, ambient: true } => {
                self.notes.push(format!("{name} is ignored: {problem}"));
            }
            _ => self.mistakes.push(Mistake { origin: origin.clone(), key: key.to_owned(), problem }),
        }
    }

    fn declare(&mut self, new: Declared) {
        // Compared as flags: `a.b` and `a-b` are two keys, but they would be one flag and one variable.
        let flag = flag_of(&new.key);
        match self.declared.iter().find(|old| flag_of(&old.key) == flag) {
            None => self.declared.push(new),
            Some(old) if old.key == new.key && old.default == new.default && old.kind == new.kind => {}
            Some(_) => self.mistakes.push(Mistake {
                origin: Origin::Default,
                problem: "the program declares this setting twice and differently".to_owned(),
                key: new.key,
            }),
        }
    }
}
