//! A target under the engine that is guided by coverage. The target's name is in `MUSTER_FUZZ_TARGET`; the
//! arguments are the engine's. Only `cargo xtask fuzz` builds it with the engine in it.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
mod guided {
    use std::sync::LazyLock;

    static TARGET: LazyLock<fuzz::Target> = LazyLock::new(|| {
        let name = std::env::var("MUSTER_FUZZ_TARGET").unwrap_or_default();
        fuzz::target(&name).unwrap_or_else(|| panic!("MUSTER_FUZZ_TARGET names no target: `{name}`"))
    });

    libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input));
}

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    eprintln!("This program is built without its engine. Run `cargo xtask fuzz`.");
    std::process::ExitCode::FAILURE
}
