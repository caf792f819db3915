//! What a setting's text may stand for.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How a value is written in a TOML file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In quotes.
    Text,
    /// Bare.
    Number,
    /// `true` or `false`; as a flag its presence is enough.
    Bool,
    /// An array, in flags and variables separated by commas.
    List,
}

/// A type that a setting can have.
pub trait Setting: Sized {
    /// What stands for a value in the help, such as `DURATION`.
    const NAME: &'static str;
    /// How a value is written.
    const KIND: Kind = Kind::Text;
    /// A value must never be shown.
    const SECRET: bool = false;
    /// What is expected: "a duration such as 30s".
    fn expected() -> String;
    /// Reads a value; none if the text is not one.
    fn parse(text: &str) -> Option<Self>;
    /// The value's text, without secrets.
    fn show(&self) -> String;
}

macro_rules! plain {
    ($($type:ty, $name:literal, $kind:ident, $expected:literal;)*) => { $(
        impl Setting for $type {
            const NAME: &'static str = $name;
            const KIND: Kind = Kind::$kind;

            fn expected() -> String {
                $expected.to_owned()
            }

            fn parse(text: &str) -> Option<Self> {
                text.trim().parse().ok()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )* };
}

plain! {
    bool, "BOOL", Bool, "true or false";
    u16, "NUMBER", Number, "a whole number below 65536";
    u32, "NUMBER", Number, "a whole number";
    u64, "NUMBER", Number, "a whole number";
    usize, "NUMBER", Number, "a whole number";
    SocketAddr, "ADDRESS", Text, "an address and port such as 0.0.0.0:30100 or [::]:30100";
}

impl Setting for f64 {
    const NAME: &'static str = "NUMBER";
    const KIND: Kind = Kind::Number;

    fn expected() -> String {
        "a number".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok().filter(|number: &f64| number.is_finite())
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    const NAME: &'static str = "TEXT";

    fn expected() -> String {
        "text".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

impl Setting for PathBuf {
    const NAME: &'static str = "PATH";

    fn expected() -> String {
        "a path".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Setting for Duration {
    const NAME: &'static str = "DURATION";

    fn expected() -> String {
        "a duration such as 500ms, 30s or 5m".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok()
    }

    fn show(&self) -> String {
        humantime::format_duration(*self).to_string()
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

/// Largest first, so that showing picks the largest that fits.
const UNITS: [(&str, usize); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Setting for Size {
    const NAME: &'static str = "SIZE";

    fn expected() -> String {
        "a size such as 64KiB, 2MiB or 1GiB".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (unit, factor) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit))?;
        let number: usize = text[..text.len() - unit.len()].trim().parse().ok()?;
        number.checked_mul(factor).map(Self)
    }

    fn show(&self) -> String {
        let fits = UNITS.into_iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (unit, factor) = fits.unwrap_or(("B", 1));
        format!("{}{unit}", self.0 / factor)
    }
}

/// An absolute address with a host. Shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(url::Url);

impl Url {
    /// The address with everything in it.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Its scheme, in lower case.
    pub fn scheme(&self) -> &str {
        self.0.scheme()
    }

    /// Its parts.
    pub fn parts(&self) -> &url::Url {
        &self.0
    }
}

impl FromStr for Url {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let url = url::Url::parse(text.trim()).map_err(|_| ())?;
        if url.host_str().is_none_or(str::is_empty) { Err(()) } else { Ok(Self(url)) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        if url.password().is_some() {
            // Refused only for addresses without a host, which cannot be here.
            let _ = url.set_password(Some("***"));
        }
        f.write_str(url.as_str())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Setting for Url {
    const NAME: &'static str = "URL";

    fn expected() -> String {
        "an address such as http://10.0.0.1:30100".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Text that is never shown. A value `@PATH` is read from the file at that path, without the newline at its
/// end; `@@` stands for an `@` that belongs to the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Setting for Secret {
    const NAME: &'static str = "SECRET";
    const SECRET: bool = true;

    fn expected() -> String {
        "a secret, or @ and the path of a readable file that holds it".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        let secret = match text.strip_prefix('@') {
            Some(literal) if literal.starts_with('@') => literal.to_owned(),
            Some(path) => std::fs::read_to_string(path).ok()?.trim_end_matches(['\r', '\n']).to_owned(),
            None => text.to_owned(),
        };
        (!secret.is_empty()).then_some(Self(secret))
    }

    fn show(&self) -> String {
        "***".to_owned()
    }
}

/// A type with a few named values.
pub trait Choice: Copy + PartialEq + 'static {
    /// Every value with its name.
    const ALL: &'static [(&'static str, Self)];
}

impl<C: Choice> Setting for C {
    const NAME: &'static str = "CHOICE";

    fn expected() -> String {
        let names: Vec<_> = C::ALL.iter().map(|(name, _)| *name).collect();
        match names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => names.concat(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        C::ALL.iter().find(|(name, _)| *name == text.trim()).map(|(_, value)| *value)
    }

    fn show(&self) -> String {
        C::ALL
            .iter()
            .find(|(_, value)| value == self)
            .map_or_else(String::new, |(name, _)| (*name).to_owned())
    }
}

impl<T: Setting> Setting for Vec<T> {
    const NAME: &'static str = T::NAME;
    const KIND: Kind = Kind::List;
    const SECRET: bool = T::SECRET;

    fn expected() -> String {
        format!("a list, each entry {}", T::expected())
    }

    fn parse(text: &str) -> Option<Self> {
        text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(T::parse).collect()
    }

    fn show(&self) -> String {
        self.iter().map(T::show).collect::<Vec<_>>().join(",")
    }
}
