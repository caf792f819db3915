//! Each target with its corpus and edits of it, not guided by anything.

use std::collections::BTreeSet;
use std::path::Path;

use fuzz::{Corpus, TARGETS};

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let target = fuzz::target(stringify!($name)).expect("a target");
                Corpus::of(target.name).smoke(target.times, target.run);
            }
        )*

        const TESTED: &[&str] = &[$(stringify!($name),)*];
    };
}

targets! { bodies events frames heads paths questions records registrations stored streams subjects tokens versions watches }

#[test]
fn each_target_is_tested_and_has_a_corpus() {
    let names: BTreeSet<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(TESTED.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(), names);
    // `cargo xtask fuzz` takes the names of the targets from this folder.
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let folders = std::fs::read_dir(corpus).expect("the corpus");
    let folders = folders.map(|entry| entry.expect("readable").file_name().into_string().expect("a name"));
    assert_eq!(folders.collect::<BTreeSet<_>>(), names);
}
