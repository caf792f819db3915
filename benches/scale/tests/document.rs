//! `docs/scale.md` carries what the program prints; `MUSTER_UPDATE_DOCS=1` writes it there.

use std::path::Path;

#[test]
fn the_document_has_the_figures_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scale.md");
    let document = std::fs::read_to_string(&path).expect("the document is there");
    let mut expected = document.clone();
    for (name, table) in scale::command::documented().expect("the figures make sense") {
        let begin = format!("<!-- begin {name} -->\n");
        let end = format!("<!-- end {name} -->");
        let from = expected.find(&begin).unwrap_or_else(|| panic!("no place for `{name}`")) + begin.len();
        let to = expected[from..].find(&end).unwrap_or_else(|| panic!("no end of `{name}`")) + from;
        expected.replace_range(from..to, &format!("\n{}\n", table.markdown()));
    }
    if std::env::var_os("MUSTER_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("the document can be written");
    } else {
        assert!(
            document == expected,
            "docs/scale.md differs: MUSTER_UPDATE_DOCS=1 cargo test -p scale writes it"
        );
    }
}
