//! The types of settings: how a value is read from text, described to people and written to a TOML file.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::text::text_of;

/// The form of a value in a TOML file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text in quotes.
    Text,
    /// A number, without quotes.
    Number,
    /// `true` or `false`. As a flag it needs no value: `--loud` is `--loud=true`.
    Bool,
    /// An array. In flags and variables its entries are separated by commas.
    List,
}

/// A type that a setting can have.
///
/// Reading back what [`Setting::show`] returns yields the same value, secrets excepted: `--print-config`
/// relies on it.
pub trait Setting: Sized {
    /// The placeholder for a value in the help, such as `DURATION`.
    const NAME: &'static str;
    /// The form of a value in a TOML file.
    const KIND: Kind = Kind::Text;
    /// Values must never appear in output, messages or logs.
    const SECRET: bool = false;
    /// A description for people that completes "expected …", such as "a duration such as 30s".
    fn expected() -> String;
    /// The description to which a range is appended; without bounds that the range replaces.
    fn expected_in_range() -> String {
        Self::expected()
    }
    /// Parses a value; `None` when the text is none.
    fn parse(text: &str) -> Option<Self>;
    /// The value as text, with every secret in it replaced by `***`.
    fn show(&self) -> String;
}

macro_rules! plain {
    ($($type:ty, $name:literal, $kind:ident, $expected:literal $(, in a range $in_range:literal)?;)*) => { $(
        impl Setting for $type {
            const NAME: &'static str = $name;
            const KIND: Kind = Kind::$kind;

            fn expected() -> String {
                $expected.to_owned()
            }

            $(fn expected_in_range() -> String {
                $in_range.to_owned()
            })?

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
    u16, "NUMBER", Number, "a whole number below 65536", in a range "a whole number";
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
        // Rust also parses `NaN` and `inf`. No setting has a use for them, and comparisons with
        // them surprise.
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
        // Not trimmed: a path may begin or end with a blank.
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

/// Durations from this one on are shown in minutes and longer units.
const SHOWN_IN_MINUTES: Duration = Duration::from_secs(5 * 60);

impl Setting for Duration {
    const NAME: &'static str = "DURATION";

    fn expected() -> String {
        "a duration such as 500ms, 30s or 5m".to_owned()
    }

    fn parse(text: &str) -> Option<Self> {
        humantime::parse_duration(text).ok()
    }

    fn show(&self) -> String {
        // People think of a minute or two in seconds: `90s` and not `1m 30s`.
        if self.subsec_nanos() == 0 && *self < SHOWN_IN_MINUTES {
            return format!("{}s", self.as_secs());
        }
        humantime::format_duration(*self).to_string()
    }
}

/// A number of bytes. Written with a unit: `64KiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

// The largest first: `show` takes the first that divides the size, and `parse` must try `KiB` before `B`.
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
        // A size beyond the address space is a mistake of the operator, not a panic.
        number.checked_mul(factor).map(Self)
    }

    fn show(&self) -> String {
        let largest =
            UNITS.into_iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        // Only zero has no unit that is small enough.
        let (unit, factor) = largest.unwrap_or(("B", 1));
        format!("{}{unit}", self.0 / factor)
    }
}

/// An absolute URL with a host. `Display` and `Debug` replace its password by `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(url::Url);

impl Url {
    /// The whole URL, with its password.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        self.0.scheme()
    }

    /// The parsed URL.
    pub fn parts(&self) -> &url::Url {
        &self.0
    }

    /// True for `http://host:port` or `https://host:port` and nothing after it, but perhaps a slash.
    pub fn is_http_base(&self) -> bool {
        matches!(self.scheme(), "http" | "https") && self.0.path() == "/" && self.0.query().is_none()
    }
}

impl FromStr for Url {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let url = url::Url::parse(text.trim()).map_err(|_| ())?;
        // `localhost:2379` parses as a URL with the scheme `localhost`; this is what refuses it.
        if url.host_str().is_none_or(str::is_empty) { Err(()) } else { Ok(Self(url)) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        if url.password().is_some() {
            // Fails only for a URL without a host, which `from_str` refuses.
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

/// A text that is never shown. `@PATH` stands for the content of that file, without the line ends at its end;
/// `@@` at the start stands for an `@` that belongs to the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text. The name makes every use easy to find.
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
            // Editors and `echo` end a file with a line end that nobody means to be part of the secret.
            Some(path) => text_of(Path::new(path)).ok()?.trim_end_matches(['\r', '\n']).to_owned(),
            None => text.to_owned(),
        };
        // An empty secret would open a door instead of locking it: `Bearer ` would be accepted as a token.
        (!secret.is_empty()).then_some(Self(secret))
    }

    fn show(&self) -> String {
        "***".to_owned()
    }
}

/// A type with a few named values, such as a log format.
pub trait Choice: Copy + PartialEq + 'static {
    /// Every value with the name that stands for it in settings.
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
        // A comma at the end is harmless, so empty entries are skipped. One bad entry refuses the whole list.
        text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(T::parse).collect()
    }

    fn show(&self) -> String {
        self.iter().map(T::show).collect::<Vec<_>>().join(",")
    }
}
