//! The declarations as flags with help, as a file, and as a table for the documentation.

use std::fmt::Write as _;

use clap::{Arg, ArgAction, Command};

use super::declared::Declared;
use super::origin::{CONFIG, PRINT_CONFIG, flag_of, variable_of};
use super::{Config, Kind, Origin, Settings, Sources};

/// Adds a flag for each setting, grouped by section.
pub(super) fn flags(command: Command, declared: &[Declared]) -> Command {
    let command = command
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
    declared.iter().fold(command, |command, it| command.arg(flag(it)))
}

fn flag(it: &Declared) -> Arg {
    let mut help = format!("{} [env: {}]", it.help, variable_of(it.alias.unwrap_or(&it.key)));
    if let Some(default) = it.default.as_ref().filter(|default| !default.is_empty()) {
        // Writing to a String cannot fail.
        let _ = write!(help, " [default: {default}]");
    }
    let arg = Arg::new(it.key.clone())
        .long(flag_of(&it.key))
        .value_name(it.value_name)
        .help(help)
        .help_heading(heading(&it.key));
    let arg = it.alias.map_or(arg.clone(), |alias| arg.visible_alias(alias));
    match it.kind {
        Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
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

/// The settings in force as a file that sets the same; each with what it does, its default and where it came from.
pub(super) fn toml(declared: &[Declared]) -> String {
    let mut text = String::new();
    for section in sections(declared) {
        if let Some(section) = section {
            let _ = writeln!(text, "\n[{section}]");
        }
        for it in declared.iter().filter(|it| place(&it.key).0 == section) {
            let name = place(&it.key).1;
            let default = it.default.as_deref().filter(|it| !it.is_empty());
            let default = default.map_or(String::new(), |it| format!(" Default: {it}."));
            let _ = writeln!(text, "# {} Expects {}.{default}", it.help, it.expected);
            let origin = match &it.origin {
                Origin::Flag => "flag",
                Origin::Variable => "environment",
                Origin::File(_) => "file",
                Origin::Foreign { name, .. } => name,
                Origin::Default => "default",
            };
            let _ = match &it.shown {
                Some(shown) => writeln!(text, "{name} = {} # {origin}", literal(it.kind, shown)),
                None => writeln!(text, "# {name} is not set"),
            };
        }
    }
    text
}

/// Sections in the order of their first setting; what is in no section must come first in TOML.
fn sections(declared: &[Declared]) -> Vec<Option<&str>> {
    let mut sections = vec![None];
    for it in declared {
        let section = place(&it.key).0;
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    sections
}

/// A key's section, and its name there.
fn place(key: &str) -> (Option<&str>, &str) {
    match key.split_once('.') {
        None => (None, key),
        Some((section, name)) => (Some(section), name),
    }
}

fn literal(kind: Kind, shown: &str) -> String {
    match kind {
        Kind::Number | Kind::Bool => shown.to_owned(),
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
    for it in settings.declared() {
        let default = match it.default.as_deref() {
            None | Some("") => "–".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        let _ = writeln!(
            text,
            "| `{}` | `{}` | {default} | {} Expects {}.{} |",
            it.key,
            variable_of(it.alias.unwrap_or(&it.key)),
            it.help,
            it.expected,
            if it.live { " Takes effect while running." } else { "" }
        );
    }
    text
}
