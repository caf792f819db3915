//! The reader that is also the declaration: what is asked for here, exists.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::declared::Declared;
use super::origin::flag_of;
use super::{Mistake, Mistakes, Origin, Setting, Sources};

/// Hands out values and keeps mistakes.
///
/// Keys are lower-case words with dashes, in at most one section: `listen`, `watch.ping-interval`.
/// Declaring a key twice in the same way is fine: both get the same value.
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

    /// The value of `key`, or of the text `default`. `help` is a sentence that says what it does, and its unit.
    ///
    /// # Panics
    /// When the default is no value of the type: a mistake in the program that its first start shows.
    pub fn get<T: Setting>(&mut self, key: &str, default: &'static str, help: &'static str) -> T {
        let default = self.default_of(key, default);
        let value = self.read(key, Some(default), help, T::expected(), T::parse);
        value.unwrap_or_else(|| T::parse(default).expect("a default is a value of its type"))
    }

    /// Like [`Settings::get`], for a value that must be in a range, whose ends are texts too.
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
        let [least, most] = [range.start(), range.end()]
            .map(|end| T::parse(end).expect("an end of a range is a value of its type"));
        let expected = format!("{} from {} to {}", T::expected(), range.start(), range.end());
        let default = self.default_of(key, default);
        let parse = |text: &str| T::parse(text).filter(|value| *value >= least && *value <= most);
        let value = self.read(key, Some(default), help, expected, parse);
        value.unwrap_or_else(|| T::parse(default).expect("a default is a value of its type"))
    }

    /// The value of `key`, if it is set anywhere.
    pub fn optional<T: Setting>(&mut self, key: &str, help: &'static str) -> Option<T> {
        self.read(key, None, help, T::expected(), T::parse)
    }

    /// Reads the settings of `read` with `section` before their keys: `listen` becomes `admin.listen`.
    /// Keys that are in a section already keep it.
    pub fn section<C>(&mut self, section: &'static str, read: impl FnOnce(&mut Self) -> C) -> C {
        let outer = self.section.replace(section);
        let value = read(self);
        self.section = outer;
        value
    }

    /// Declares that the settings of `read` take effect while the process runs, when its configuration is read again.
    pub fn live<C>(&mut self, read: impl FnOnce(&mut Self) -> C) -> C {
        let outer = std::mem::replace(&mut self.live, true);
        let value = read(self);
        self.live = outer;
        value
    }

    /// Gives the flag and the variable of `key`, which is declared later, a shorter name besides.
    pub fn alias(&mut self, key: &'static str, alias: &'static str) {
        self.aliases.insert(key, alias);
    }

    /// Changes the default of a setting that is declared later, for a program in which another one fits better.
    pub fn set_default(&mut self, key: &'static str, default: &'static str) {
        self.defaults.insert(key, default);
    }

    /// Keeps a mistake that only shows when several settings are seen together.
    pub fn mistake(&mut self, key: &str, problem: impl Into<String>) {
        let key = self.full(key);
        let origin =
            self.declared.iter().find(|it| it.key == key).map_or(Origin::Default, |it| it.origin.clone());
        self.mistakes.push(Mistake { origin, key, problem: problem.into() });
    }

    pub(super) fn declared(&self) -> &[Declared] {
        &self.declared
    }

    /// What was declared, and what deserves a warning, if nothing is wrong.
    pub(super) fn finish(mut self) -> Result<(Vec<Declared>, Vec<String>), Mistakes> {
        self.mistakes.extend(self.sources.unknown_keys(&self.declared));
        self.notes.extend(self.sources.notes());
        if self.mistakes.is_empty() { Ok((self.declared, self.notes)) } else { Err(Mistakes(self.mistakes)) }
    }

    fn full(&self, key: &str) -> String {
        match self.section {
            Some(section) if !key.contains('.') => format!("{section}.{key}"),
            _ => key.to_owned(),
        }
    }

    fn default_of(&self, key: &str, default: &'static str) -> &'static str {
        self.defaults.get(self.full(key).as_str()).copied().unwrap_or(default)
    }

    fn read<T: Setting>(
        &mut self,
        key: &str,
        default: Option<&'static str>,
        help: &'static str,
        expected: String,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let key = self.full(key);
        let alias = self.aliases.get(key.as_str()).copied();
        let found = self.sources.find(&key, alias);
        let origin = found.as_ref().map_or(Origin::Default, |(_, origin)| origin.clone());
        let text = match found {
            Some((raw, _)) => raw.into_text(T::KIND).map(Some).map_err(str::to_owned),
            None => Ok(default.map(str::to_owned)),
        };
        let value = text.and_then(|text| match text {
            None => Ok(None),
            Some(text) => match parse(&text) {
                Some(value) => Ok(Some(value)),
                None if T::SECRET => Err(format!("expected {expected}")),
                None => Err(format!("`{text}` is not valid; expected {expected}")),
            },
        });
        let value = value.unwrap_or_else(|problem| {
            match &origin {
                // A variable of so general a name may be meant for someone else.
                Origin::Foreign { name, ambient: true } => {
                    self.notes.push(format!("{name} is ignored: {problem}"))
                }
                _ => self.mistakes.push(Mistake { origin: origin.clone(), key: key.clone(), problem }),
            }
            None
        });
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

    fn declare(&mut self, new: Declared) {
        let flag = flag_of(&new.key);
        match self.declared.iter().find(|it| flag_of(&it.key) == flag) {
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
