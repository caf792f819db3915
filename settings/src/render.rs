//! The declarations as flags with help, as a TOML file, and as a table for the documentation.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

use super::declared::Declared;
use super::origin::{CONFIG, PRINT_CONFIG, flag_of};
use super::{Config, Kind, Origin, Settings, Sources};

/// Adds a flag for each setting, grouped by section.
pub(super) fn flags(command: Command, declared: &[Declared]) -> Command {
    let mut command = command
        .arg(
            Arg::new(CONFIG)
                .long(CONFIG)
                .value_name("FILE")
                .help("TOML file with settings, below flags and environment. [env: MUSTER_CONFIG]"),
        )
        .arg(
            Arg::new(PRINT_CONFIG)
                .long(PRINT_CONFIG)
                .action(ArgAction::SetTrue)
                .help("Print the settings that would be in force, without secrets, and exit."),
        );
    for setting in declared {
        command = command.arg(flag(setting));
    }
    command
}

fn flag(setting: &Declared) -> Arg {
    // Environment and default are mentioned in the help only; `Sources` reads them. Clap would take an empty
    // variable for a value, and it knows no file that ranks between the two.
    let mut help = format!("{} [env: {}]", setting.help, setting.variables(", "));
    if let Some(default) = setting.visible_default() {
        // Writing to a String cannot fail.
        let _ = write!(help, " [default: {default}]");
    }
    let mut arg = Arg::new(setting.key.clone())
        .long(flag_of(&setting.key))
        .value_name(setting.value_name)
        .help(help)
        .help_heading(heading(&setting.key));
    if let Some(alias) = setting.alias {
        arg = arg.visible_alias(alias);
    }
    match setting.kind {
        // Programs have no positional arguments, so the second word of `--flag false` can only be the value.
        Kind::Bool => arg.num_args(0..=1).default_missing_value("true"),
        Kind::List => arg.action(ArgAction::Append),
        Kind::Text | Kind::Number => arg,
    }
}

fn heading(key: &str) -> String {
    match key.split_once('.') {
        Some((section, _)) => format!("Settings: {section}"),
        None => "Settings".to_owned(),
    }
}

/// The settings in force as a TOML file that sets the same values. Each has a comment with its help and its
/// default before it, and one with its source behind it.
pub(super) fn toml(declared: &[Declared]) -> String {
    let mut text = String::new();
    for section in sections(declared) {
        if let Some(section) = section {
            let _ = writeln!(text, "\n[{section}]");
        }
        for setting in declared {
            let (own_section, name) = section_and_name(&setting.key);
            if own_section == section {
                write_setting(&mut text, name, setting);
            }
        }
    }
    text
}

fn write_setting(text: &mut String, name: &str, setting: &Declared) {
    let _ = write!(text, "# {} Expects {}.", setting.help, setting.expected);
    if let Some(default) = setting.visible_default() {
        let _ = write!(text, " Default: `{default}`.");
    }
    let origin = match &setting.origin {
        Origin::Flag => "flag",
        Origin::Variable => "environment",
        Origin::File(_) => "file",
        Origin::ServiceCenter { name, .. } => name,
        Origin::Default => "default",
    };
    let _ = match &setting.shown {
        Some(shown) => writeln!(text, "\n{name} = {} # {origin}", literal(setting.kind, shown)),
        None => writeln!(text, "\n# {name} is not set"),
    };
}

/// Sections in the order of their first setting.
fn sections(declared: &[Declared]) -> Vec<Option<&str>> {
    // Keys without a section come first: behind a section's heading TOML would count them to that section.
    let mut sections = vec![None];
    for setting in declared {
        let (section, _) = section_and_name(&setting.key);
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    sections
}

fn section_and_name(key: &str) -> (Option<&str>, &str) {
    match key.split_once('.') {
        None => (None, key),
        Some((section, name)) => (Some(section), name),
    }
}

fn literal(kind: Kind, shown: &str) -> String {
    match kind {
        Kind::Number | Kind::Bool => shown.to_owned(),
        // The library quotes: a value may hold quotes, backslashes and line ends.
        Kind::Text => toml::Value::from(shown).to_string(),
        Kind::List => {
            let entries = shown.split(',').filter(|entry| !entry.is_empty());
            toml::Value::Array(entries.map(toml::Value::from).collect()).to_string()
        }
    }
}

/// A Markdown table of the settings of `C`, for the documentation.
pub fn render_markdown<C: Config>() -> String {
    let nothing = Sources::default();
    let mut settings = Settings::new(&nothing);
    C::read(&mut settings);
    let mut text = String::from("| key | environment | default | meaning |\n| --- | --- | --- | --- |\n");
    for setting in settings.declared() {
        let default = match setting.visible_default() {
            None => "–".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        let _ = writeln!(
            text,
            "| `{}` | `{}` | {default} | {} Expects {}.{} |",
            setting.key,
            setting.variables("`, `"),
            setting.help,
            setting.expected,
            if setting.live { " Takes effect while running." } else { "" }
        );
    }
    text
}
