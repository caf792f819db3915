//! Checks that the generated code in the repository matches the `.proto` files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.map(|path| (file_name(&path), fs::read(&path).expect("readable"))).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

#[test]
fn generated_code_is_up_to_date() {
    let fresh = tempfile::tempdir().expect("a temporary directory");
    xtask::codegen::generate(fresh.path()).expect("the .proto files compile");
    let fresh = files(fresh.path());
    let checked_in = files(&xtask::codegen::checked_in());
    // Two empty folders would be equal, too.
    assert!(!fresh.is_empty());
    // A file that is left over from a removed contract is stale as well, and no content would show that.
    assert_eq!(fresh.keys().collect::<Vec<_>>(), checked_in.keys().collect::<Vec<_>>());
    let stale: Vec<_> = fresh.keys().filter(|name| fresh[*name] != checked_in[*name]).collect();
    assert!(stale.is_empty(), "run `cargo xtask codegen`; stale: {stale:?}");
}
