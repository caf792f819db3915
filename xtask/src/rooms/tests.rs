use std::path::Path;

use super::graph::Graph;
use super::reader::{self, Import};
use super::{between_rooms, judge};

/// Writes the files into a folder and reads the crate that they make.
fn read(files: &[(&str, &str)]) -> Vec<Import> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
        std::fs::write(file, text).expect("a file");
    }
    reader::read(&folder.path().join("lib.rs")).expect("a crate that can be read")
}

/// The imports as `from -> to`, without repetitions.
fn edges(files: &[(&str, &str)]) -> Vec<String> {
    let mut edges: Vec<_> = read(files)
        .iter()
        .map(|import| format!("{} -> {}", super::shown(&import.from), super::shown(&import.to)))
        .collect();
    edges.sort();
    edges.dedup();
    edges
}

const ROOT: (&str, &str) = ("lib.rs", "mod a; mod b;");

#[test]
fn a_use_leads_to_the_deepest_module_that_it_names() {
    let deep = ("b.rs", "pub mod deep;");
    for import in [
        "use crate::b::deep::Type;",
        "use crate::b::{deep};",
        "use crate::b::{deep::{self, Type as Other}};",
        "use crate::{b::deep::*};",
        "use super::b::deep::{Type};",
        "pub(crate) use crate::b::deep;",
    ] {
        assert_eq!(edges(&[ROOT, ("a.rs", import), deep, ("b/deep.rs", "")]), ["a -> b::deep"], "{import}");
    }
}

#[test]
fn a_path_in_the_middle_of_the_code_is_an_import() {
    for code in [
        "fn f() { crate::b::g(); }",
        "struct S { field: Vec<super::b::Type> }",
        "fn f() { info!(\"{}\", crate::b::g()); }",
        "use crate::b; fn f() -> b::Type { b::g() }",
        "mod inline { fn f() { super::super::b::g() } }",
        "impl From<crate::b::Type> for u8 {}",
    ] {
        assert_eq!(edges(&[ROOT, ("a.rs", code), ("b.rs", "")]), ["a -> b"], "{code}");
    }
}

#[test]
fn other_crates_comments_and_grants_are_not_imports() {
    for code in [
        "use other::b::Type;",
        "use ::b::Type;",
        "// use crate::b;",
        "/// See [`crate::b`].\nfn f() {}",
        "const TEXT: &str = \"crate::b::g()\";",
        "pub(in crate::b) fn f() {}",
        "fn b() { x.b::<u8>(); }",
        "struct S { b: b }",
    ] {
        assert_eq!(edges(&[ROOT, ("a.rs", code), ("b.rs", "")]), [""; 0], "{code}");
    }
}

#[test]
fn unit_tests_may_reach_for_anything() {
    for code in [
        "#[cfg(test)] mod tests { use crate::b::Type; }",
        "#[cfg(test)] #[path = \"other.rs\"] mod tests;",
        "#[cfg(any(test, feature = \"contract\"))] pub mod contract { use crate::b::Type; }",
        "#[cfg(test)] use crate::b::{Type, Other};",
        "impl S { #[cfg(test)] pub(crate) fn f(a: u8, b: u8) -> crate::b::Type { g() } }",
        "struct S { #[cfg(test)] field: crate::b::Type }",
    ] {
        assert_eq!(edges(&[ROOT, ("a.rs", code), ("b.rs", "")]), [""; 0], "{code}");
    }
    let shipped = "#[cfg(not(test))] use crate::b::Type;";
    assert_eq!(edges(&[ROOT, ("a.rs", shipped), ("b.rs", "")]), ["a -> b"]);
    let after = "#[cfg(test)] use crate::x::{Type}; use crate::b::Type;";
    assert_eq!(edges(&[ROOT, ("a.rs", after), ("b.rs", "")]), ["a -> b"]);
}

#[test]
fn files_are_found_the_way_the_compiler_finds_them() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c { mod inner; }"),
        ("a/mod.rs", "use crate::b::Type;"),
        ("b.rs", "#[path = \"elsewhere.rs\"] mod inner;"),
        ("elsewhere.rs", "use crate::a::Type;"),
        ("c/inner.rs", "use crate::b::Type;"),
    ];
    assert_eq!(edges(&files), ["a -> b", "b::inner -> a", "c::inner -> b"]);
}

#[test]
fn an_export_of_the_root_belongs_to_the_room_that_declares_it() {
    let root = ("lib.rs", "mod a; mod b; pub use b::Type; pub struct Own;");
    assert_eq!(edges(&[root, ("a.rs", "use crate::Type;"), ("b.rs", "")]), ["a -> b", "crate -> b"]);
    assert_eq!(edges(&[root, ("a.rs", "use crate::Own;"), ("b.rs", "")]), ["a -> crate", "crate -> b"]);
}

#[test]
fn rooms_that_need_each_other_are_named_with_their_imports() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; use c::Type;"),
        ("a.rs", "mod part;"),
        ("a/part.rs", "\nuse crate::b::Type;"),
        ("b.rs", "fn f() { crate::a::g(); crate::a::h(); }"),
        ("c.rs", "use crate::{Own, a::Type};"),
    ];
    let complaints = judge("house", &read(&files));
    assert!(complaints.contains("house: these rooms need each other: a, b\n"), "{complaints}");
    assert!(complaints.contains("a/part.rs:2: crate::b::Type\n"), "{complaints}");
    assert!(complaints.contains("b.rs:1: crate::a::g (and 1 more)\n"), "{complaints}");
    assert!(!complaints.contains("c.rs"), "{complaints}");
}

#[test]
fn a_parent_and_its_children_may_need_each_other_up_to_a_bound() {
    for (children, accepted) in [(9, true), (10, false)] {
        let mods: String = (0..children).map(|n| format!("mod m{n}; use m{n}::Type;")).collect();
        let names: Vec<_> = (0..children).map(|n| format!("a/m{n}.rs")).collect();
        let mut files = vec![("lib.rs", "mod a;"), ("a.rs", mods.as_str())];
        files.extend(names.iter().map(|name| (name.as_str(), "use super::State;")));
        assert_eq!(judge("house", &read(&files)).is_empty(), accepted, "{children} children");
    }
}

#[test]
fn circles_are_the_strongly_connected_nodes() {
    let mut graph = Graph::default();
    for (from, to) in
        [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("f", "f"), ("g", "h"), ("h", "g")]
    {
        graph.add(from, to, ());
    }
    assert_eq!(graph.circles(), [vec!["a", "b", "c"], vec!["g", "h"]]);
    let within = ["a", "b", "c"].map(String::from);
    let edges: Vec<_> = graph.edges_within(&within).map(|(from, to, _)| format!("{from}{to}")).collect();
    assert_eq!(edges, ["ab", "bc", "ca"]);
}

#[test]
fn xtask_itself_can_be_read() {
    let imports = reader::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("readable");
    assert!(imports.iter().any(|import| import.from == ["ci"] && import.to == ["rooms"]));
    assert!(between_rooms(&imports).circles().is_empty());
}
