//! The promises to operators: the ranks of the sources, all mistakes at once, hidden secrets,
//! harmless reloads.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Colour {
    Red,
    Blue,
}

impl Choice for Colour {
    const ALL: &'static [(&'static str, Self)] = &[("red", Self::Red), ("blue", Self::Blue)];
}

#[derive(Debug, PartialEq)]
struct Sample {
    listen: SocketAddr,
    interval: Duration,
    limit: Size,
    urls: Vec<Url>,
    colour: Colour,
    loud: bool,
    connections: usize,
    token: Option<Secret>,
}

impl Config for Sample {
    fn read(settings: &mut Settings<'_>) -> Self {
        Self {
            listen: settings.get("listen", "127.0.0.1:30100", "Address to serve on."),
            interval: settings.within("watch.ping-interval", "30s", "1s"..="1h", "Pause between pings."),
            limit: settings.get("watch.frame-limit", "64KiB", "Largest frame."),
            urls: settings.get("nats.url", "nats://127.0.0.1:4222", "Addresses of the bus."),
            colour: settings.get("colour", "red", "A choice."),
            loud: settings.get("loud", "false", "A switch."),
            connections: settings.get("connections", "100", "A number."),
            token: settings.optional("nats.token", "A secret."),
        }
    }
}

fn url(text: &str) -> Url {
    text.parse().expect("is a url")
}

fn mistakes(sources: &Sources) -> String {
    parse::<Sample>(sources).expect_err("is wrong").to_string()
}

fn from_arguments(arguments: &[&str]) -> Sample {
    let matches = augment::<Sample>(clap::Command::new("sample"))
        .try_get_matches_from(std::iter::once(&"sample").chain(arguments))
        .expect("flags exist");
    resolve_in(&matches, HashMap::new()).expect("no mistakes").config
}

#[test]
fn a_setting_that_no_source_sets_has_its_default() {
    let sample: Sample = defaults().expect("no mistakes");
    assert_eq!(sample.interval, Duration::from_secs(30));
    assert_eq!(sample.limit, Size(65_536));
    assert_eq!((sample.colour, sample.loud, sample.token), (Colour::Red, false, None));
}

#[test]
fn a_switch_takes_its_value_in_every_way_that_flags_do() {
    for (arguments, loud) in [
        (&["--loud"][..], true),
        (&["--loud", "true"], true),
        (&["--loud", "false"], false),
        (&["--loud=false"], false),
        (&["--loud", "--watch-ping-interval", "1s"], true),
    ] {
        assert_eq!(from_arguments(arguments).loud, loud, "{arguments:?}");
    }
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let file = Sources::default().with_file("muster.toml", "[watch]\nping-interval = '3s'").expect("is toml");
    let variable = file.clone().with_variable("MUSTER_WATCH_PING_INTERVAL", "2s");
    let flag = variable.clone().with_flag("watch.ping-interval", "1s");
    for (sources, seconds) in [(flag, 1), (variable, 2), (file, 3)] {
        assert_eq!(parse::<Sample>(&sources).expect("no mistakes").interval, Duration::from_secs(seconds));
    }
}

#[test]
fn an_empty_variable_is_absent() {
    let sources = Sources::default().with_variable("MUSTER_LISTEN", "");
    assert_eq!(parse::<Sample>(&sources).expect("no mistakes").listen.port(), 30100);
}

#[test]
fn all_mistakes_are_reported_with_source_and_expectation() {
    let sources = Sources::default()
        .with_file("muster.toml", "connections = 'many'\n[watch]\nping-intervall = '1s'")
        .expect("is toml")
        .with_variable("MUSTER_WATCH_PING_INTERVAL", "2h")
        .with_flag("colour", "green");
    assert_eq!(
        mistakes(&sources),
        "4 mistakes in the configuration:\n  \
         MUSTER_WATCH_PING_INTERVAL: `2h` is not valid; expected a duration such as 500ms, 30s or 5m from 1s to 1h\n  \
         --colour: `green` is not valid; expected red or blue\n  \
         muster.toml: connections: `many` is not valid; expected a whole number\n  \
         muster.toml: watch.ping-intervall: there is no such setting; did you mean `watch.ping-interval`?"
    );
}

#[test]
fn a_file_that_is_no_toml_is_refused() {
    let mistakes = Sources::default().with_file("muster.toml", "listen").expect_err("is wrong").to_string();
    assert!(mistakes.contains("muster.toml: TOML parse error at line 1"), "{mistakes}");
}

#[test]
fn lists_come_with_commas_repeated_flags_or_arrays() {
    let two = ["nats://a:1", "nats://b:2"].map(|url| url.parse().expect("is a url"));
    let file =
        Sources::default().with_file("f", "[nats]\nurl = ['nats://a:1', 'nats://b:2']").expect("is toml");
    assert_eq!(parse::<Sample>(&file).expect("no mistakes").urls, two);
    assert_eq!(from_arguments(&["--nats-url=nats://a:1,nats://b:2"]).urls, two);
    assert_eq!(from_arguments(&["--nats-url", "nats://a:1", "--nats-url", "nats://b:2"]).urls, two);
}

#[test]
fn a_switch_needs_no_value_but_takes_one() {
    assert!(from_arguments(&["--loud"]).loud);
    assert!(!from_arguments(&["--loud=false"]).loud);
}

#[test]
fn switches_points_and_dates_are_no_texts() {
    let text =
        "folder = true\nname = 1.10\ntoken = 1e5\nday = 1979-05-27\nid = 7\nshare = 1.10\nloud = true\n";
    let file = Sources::default().with_file("f", text).expect("is toml");
    let mut settings = Settings::new(&file);
    assert_eq!(settings.optional::<PathBuf>("folder", "A path."), None);
    assert_eq!(settings.optional::<String>("name", "A text."), None);
    assert_eq!(settings.optional::<String>("day", "A text."), None);
    assert!(settings.optional::<Secret>("token", "A secret.").is_none());
    // A whole number is the text that it looks like.
    assert_eq!(settings.optional::<String>("id", "A text."), Some("7".to_owned()));
    assert_eq!(settings.optional::<f64>("share", "A number."), Some(1.1));
    assert_eq!(settings.optional::<bool>("loud", "A switch."), Some(true));
    let mistakes = settings.finish().expect_err("four are wrong").to_string();
    for expected in
        ["folder: expected a path, in quotes", "name: expected text, in quotes", "token: expected a secret"]
    {
        assert!(mistakes.contains(expected), "{expected} in {mistakes}");
    }
    assert_eq!(mistakes.matches("in quotes").count(), 4, "{mistakes}");
    assert!(!mistakes.contains("100000"), "a secret is not shown: {mistakes}");
}

#[test]
fn a_file_without_an_end_is_refused() {
    let read = |path: &str| super::text::text_of(Path::new(path));
    let error = read("/dev/zero").expect_err("has no end").to_string();
    assert!(error.contains("larger than 1 MiB"), "{error}");
    assert!(read("/dev/null").expect("is empty").is_empty());
    assert!(Secret::parse("@/dev/zero").is_none());
}

#[test]
fn the_printed_settings_can_be_used_as_a_file() {
    let sources = Sources::default()
        .with_flag("watch.frame-limit", "3MiB")
        .with_flag("nats.url", "nats://a:1,nats://b:2")
        .with_variable("MUSTER_COLOUR", "blue");
    let mut settings = Settings::new(&sources);
    let sample = Sample::read(&mut settings);
    let printed = render::toml(&settings.finish().expect("no mistakes").0);
    assert!(printed.contains("frame-limit = \"3MiB\" # flag\n"), "{printed}");
    let again = Sources::default().with_file("printed", &printed).expect("is toml");
    assert_eq!(parse::<Sample>(&again).expect("no mistakes"), sample);
}

struct Etcd(Vec<Url>, usize, String);

impl Config for Etcd {
    fn read(settings: &mut Settings<'_>) -> Self {
        settings.alias("etcd.endpoints", "etcd");
        Self(
            settings.get("etcd.endpoints", "http://a:1", "Members."),
            settings.live(|live| live.get("quota.services", "5", "Services.")),
            settings.get("etcd.user", "me", "Name."),
        )
    }
}

#[test]
fn an_alias_works_as_flag_and_variable_but_not_in_a_file() {
    let sources = Sources::default().with_variable("MUSTER_ETCD", "http://b:2");
    assert_eq!(parse::<Etcd>(&sources).expect("no mistakes").0, [url("http://b:2")]);
    let matches =
        augment::<Etcd>(clap::Command::new("test")).try_get_matches_from(["test", "--etcd", "http://c:3"]);
    let loaded = resolve_in::<Etcd>(&matches.expect("is a flag"), HashMap::new()).expect("no mistakes");
    assert_eq!(loaded.config.0, [url("http://c:3")]);
    let file = Sources::default().with_file("f", "etcd = 'http://d:4'").expect("is toml");
    let mistakes = parse::<Etcd>(&file).err().expect("is wrong").to_string();
    assert!(mistakes.contains("f: etcd: it is called `etcd.endpoints` in a file"), "{mistakes}");
}

#[test]
fn service_center_ranks_below_our_variables_above_defaults() {
    let yaml = "registry: {etcd: {cluster: {endpoints: 'http://sc:2379'}}}\nrbac: {enable: true}";
    let file = Sources::default().with_file("app.yaml", yaml).expect("is yaml");
    assert_eq!(parse::<Etcd>(&file).expect("no mistakes").0, [url("http://sc:2379")]);
    let both = file.with_variable("MUSTER_ETCD_ENDPOINTS", "http://ours:1");
    assert_eq!(parse::<Etcd>(&both).expect("no mistakes").0, [url("http://ours:1")]);
}

#[test]
fn a_general_variable_with_a_bad_value_is_ignored_with_a_note() {
    let matches =
        augment::<Sample>(clap::Command::new("test")).try_get_matches_from(["test"]).expect("no flags");
    let environment = HashMap::from([("SERVER_PORT".to_owned(), "tcp://10.0.0.1:80".to_owned())]);
    let loaded = resolve_in::<Sample>(&matches, environment).expect("no mistakes");
    assert_eq!(loaded.config.listen.port(), 30100);
    assert!(loaded.notes[0].starts_with("SERVER_HOST and SERVER_PORT is ignored"), "{:?}", loaded.notes);
}

#[test]
fn a_reload_separates_live_changes_and_a_bad_one_is_void() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("muster.toml");
    std::fs::write(&path, "[quota]\nservices = 7").expect("is written");
    let matches = augment::<Etcd>(clap::Command::new("test"))
        .try_get_matches_from(["test", "--config", &path.display().to_string()])
        .expect("flags exist");
    let mut reloader = resolve_in::<Etcd>(&matches, HashMap::new()).expect("no mistakes").reloader;
    let shown = reloader.shown();
    assert!(shown.load().contains("services = 7 # file"), "{}", shown.load());

    std::fs::write(&path, "[quota]\nservices = 9\n[etcd]\nuser = 'you'").expect("is written");
    let change = reloader.read::<Etcd>().expect("no mistakes");
    assert_eq!(
        (change.config.1, change.config.2.as_str(), change.live, change.later),
        (9, "you", vec!["quota.services".into()], vec!["etcd.user".into()])
    );
    assert!(
        shown.load().contains("services = 9") && shown.load().contains("user = \"me\""),
        "{}",
        shown.load()
    );

    std::fs::write(&path, "[quota]\nservices = 'x'\nservice = 1").expect("is written");
    let mistakes = reloader.read::<Etcd>().err().expect("is wrong");
    assert_eq!(mistakes.0.len(), 2, "{mistakes}");
    assert!(shown.load().contains("services = 9"));
}

#[test]
fn secrets_are_never_shown() {
    let sources = Sources::default()
        .with_flag("nats.token", "hunter2")
        .with_flag("nats.url", "nats://user:hunter2@a:1")
        .with_flag("loud", "maybe");
    let mut settings = Settings::new(&sources);
    let sample = Sample::read(&mut settings);
    let seen = format!(
        "{sample:?} {} {settings_mistakes}",
        render::toml(settings.declared()),
        settings_mistakes = mistakes(&sources)
    );
    assert!(!seen.contains("hunter2"), "{seen}");
    assert_eq!(sample.token.expect("is set").expose(), "hunter2");
    assert!(sample.urls[0].as_str().contains("hunter2"));
}

#[test]
fn a_secret_may_be_read_from_a_file() {
    let file = tempfile::NamedTempFile::new().expect("is made");
    std::fs::write(file.path(), "hunter2\n").expect("is written");
    let secret = Secret::parse(&format!("@{}", file.path().display())).expect("is readable");
    assert_eq!(secret.expose(), "hunter2");
    assert_eq!(Secret::parse("@@home").expect("is literal").expose(), "@home");
    assert_eq!(Secret::parse("@/nowhere/at/all"), None);
}

#[test]
fn the_help_names_variable_and_default() {
    let help = augment::<Sample>(clap::Command::new("sample")).render_long_help().to_string();
    assert!(help.contains("--watch-ping-interval <DURATION>"), "{help}");
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("Pause between pings. [env: MUSTER_WATCH_PING_INTERVAL] [default: 30s]"),
        "{help}"
    );
}

#[test]
fn sections_and_replaced_defaults_adapt_shared_settings() {
    struct Both(Duration, u16);
    impl Config for Both {
        fn read(settings: &mut Settings<'_>) -> Self {
            settings.set_default("edge.port", "2");
            Self(
                settings.get("grace", "10s", "Shared."),
                settings.section("edge", |settings| {
                    let _: Duration = settings.get("x.grace", "9s", "Elsewhere.");
                    settings.get("port", "1", "Prefixed.")
                }),
            )
        }
    }
    let both: Both = defaults().expect("no mistakes");
    assert_eq!((both.0, both.1), (Duration::from_secs(10), 2));
    assert!(render_markdown::<Both>().contains(
        "| `edge.port` | `MUSTER_EDGE_PORT` | `2` | Prefixed. Expects a whole number below 65536. |"
    ));
}

#[test]
fn two_keys_with_the_same_flag_are_refused() {
    struct Torn;
    impl Config for Torn {
        fn read(settings: &mut Settings<'_>) -> Self {
            let _: Duration = settings.get("a.b", "1s", "One.");
            let _: Duration = settings.get("a-b", "1s", "Another with the same flag.");
            Self
        }
    }
    assert!(defaults::<Torn>().is_err());
}

#[test]
fn sizes_have_units() {
    for (text, size) in [("512B", 512), ("64KiB", 65_536), ("2 MiB", 2 << 20), ("1GiB", 1 << 30)] {
        assert_eq!(Size::parse(text), Some(Size(size)), "{text}");
    }
    for bad in ["", "5", "-1KiB", "1.5MiB", "99999999999999GiB", "KiB"] {
        assert_eq!(Size::parse(bad), None, "{bad}");
    }
}

#[test]
fn a_default_may_be_a_value_and_is_shown_as_text() {
    struct Limits(Duration, Size, u16);
    impl Config for Limits {
        fn read(settings: &mut Settings<'_>) -> Self {
            settings.set_default("port", "7");
            settings.alias("watch.timeout", "timeout");
            Self(
                settings.within_or("watch.timeout", Duration::from_secs(120), "2s"..="1h", "A time."),
                settings.get_or("memory", Size(32 << 10), "A size."),
                settings.within_or("port", 5, "0"..="1000", "Replaced."),
            )
        }
    }
    let limits: Limits = defaults().expect("no mistakes");
    assert_eq!((limits.0, limits.1, limits.2), (Duration::from_secs(120), Size(32 << 10), 7));
    let table = render_markdown::<Limits>();
    assert!(table.contains("| `MUSTER_TIMEOUT`, `MUSTER_WATCH_TIMEOUT` | `120s` |"), "{table}");
    assert!(table.contains("| `MUSTER_MEMORY` | `32KiB` |"), "{table}");
    assert!(table.contains("| `7` | Replaced. Expects a whole number from 0 to 1000."), "{table}");
}

#[test]
fn durations_read_back_as_they_are_shown() {
    for millis in [0, 500, 1_500, 90_000, 299_000, 300_000, 5_400_000] {
        let duration = Duration::from_millis(millis);
        assert_eq!(Duration::parse(&duration.show()), Some(duration), "{}", duration.show());
    }
}
