//! Inputs for fuzz targets: the corpus in `corpus/`, and edits of it.
//!
//! Bytes at random hardly ever make a request, so half of the inputs are edits of something that is one:
//!
//! ```text
//! [which of the corpus, two bytes] ([what] [where, two bytes] [with])…
//! ```

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};

/// The inputs of one target that are kept in the repository.
#[derive(Clone, Debug)]
pub struct Corpus(Vec<Vec<u8>>);

impl Corpus {
    /// Reads `corpus/{target}`.
    ///
    /// # Panics
    /// When there is none: a target without a corpus tests nothing.
    pub fn of(target: &str) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let files = fs::read_dir(&directory).expect("the target has a corpus");
        let mut paths: Vec<_> = files.map(|file| file.expect("a readable directory").path()).collect();
        // A directory lists its files in any order. Sorted, a script edits the same input on every machine.
        paths.sort();
        let inputs: Vec<_> = paths.iter().map(|path| fs::read(path).expect("a readable file")).collect();
        assert!(!inputs.is_empty(), "the corpus of {target} is empty");
        Self(inputs)
    }

    /// Gives the target the inputs as they are, then `times` edits of them and as many random ones. The times
    /// can be set by `MUSTER_FUZZ_TIMES`.
    ///
    /// # Panics
    /// When the target does, for an input that is made as small as possible.
    pub fn smoke(&self, times: u32, target: impl Fn(&[u8])) {
        self.0.iter().for_each(|input| target(input));
        let wanted = std::env::var("MUSTER_FUZZ_TIMES").ok().and_then(|text| text.parse().ok());
        let config =
            // No file of failing seeds is kept: such an input belongs in the corpus, where every run tries
            // it.
            Config { cases: wanted.unwrap_or(times), failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new(config).run(&vec(any::<u8>(), 0..64), |script| {
            target(&self.edited(&script));
            target(&script);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{error}"));
    }

    /// One of them, edited as `script` says; without a script, nothing.
    pub fn edited(&self, script: &[u8]) -> Vec<u8> {
        let Some((which, edits)) = script.split_first_chunk() else { return Vec::new() };
        let mut input = self.0[usize::from(u16::from_be_bytes(*which)) % self.0.len()].clone();
        for edit in edits.chunks_exact(4) {
            let &[what, high, low, with] = edit else { break };
            let place = usize::from(u16::from_be_bytes([high, low])) % (input.len() + 1);
            match what % 6 {
                0 => input.insert(place, with),
                1 => input.truncate(place),
                // Half of another one takes the place of the rest.
                2 => {
                    let other = &self.0[usize::from(with) % self.0.len()];
                    input.truncate(place);
                    input.extend_from_slice(&other[other.len() / 2..]);
                }
                3 => {
                    let repeated = input[place..].iter().copied().take(usize::from(with)).collect::<Vec<_>>();
                    input.splice(place..place, repeated);
                }
                _ if place == input.len() => input.push(with),
                4 => input[place] = with,
                _ => _ = input.remove(place),
            }
        }
        input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_edits_one_of_the_corpus() {
        let corpus = Corpus(vec![b"abcd".to_vec(), b"WXYZ".to_vec()]);
        assert_eq!(corpus.edited(&[0]), b"");
        assert_eq!(corpus.edited(&[0, 2]), b"abcd");
        assert_eq!(corpus.edited(&[0, 0, 0, 0, 1, b'-']), b"a-bcd");
        assert_eq!(corpus.edited(&[0, 0, 1, 0, 2, 0]), b"ab");
        assert_eq!(corpus.edited(&[0, 0, 2, 0, 2, 1]), b"abYZ");
        assert_eq!(corpus.edited(&[0, 0, 3, 0, 2, 1]), b"abccd");
        assert_eq!(corpus.edited(&[0, 1, 4, 0, 0, b'w', 5, 0, 3, 0]), b"wXY");
    }
}
