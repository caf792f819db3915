use settings::{Sources, parse};

use super::ProcessConfig;

#[test]
fn settings_that_contradict_each_other_are_mistakes_all_at_once() {
    let sources = Sources::default()
        .with_flag("watch.ping-interval", "10s")
        .with_flag("watch.read-timeout", "19s")
        .with_flag("watch.shards", "1025")
        .with_flag("listen", "127.0.0.1:30101")
        .with_flag("grace", "1s");
    let Err(mistakes) = parse::<ProcessConfig>(&sources) else { panic!("no mistake was found") };
    let mistakes = mistakes.to_string();
    for key in ["--watch-read-timeout", "--watch-shards", "admin-listen", "--grace"] {
        assert!(mistakes.contains(key), "{key}: {mistakes}");
    }
    let right = Sources::default().with_flag("watch.ping-interval", "60s");
    assert!(parse::<ProcessConfig>(&right).is_ok());
}
