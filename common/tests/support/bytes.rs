//! Bytes that are almost right: the seeds of a committed corpus, and what becomes of them when they are
//! altered, cut, repeated, or told to be larger than anything.
//!
//! `common/tests/corpus/FORMAT/` holds real, minimal files of each format, and those that once were
//! interesting. Every seed is tried as it is before any other case; CONVOY_FUZZ_CASES says how many
//! follow. The tests of all three crates include this file.

use std::path::PathBuf;
use std::sync::Once;

use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many cases as CONVOY_FUZZ_CASES says, or as every change can afford.
pub(crate) fn fuzzing() -> ProptestConfig {
    let cases = std::env::var("CONVOY_FUZZ_CASES").ok().and_then(|it| it.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(64),
        // What fails is printed whole, and belongs into the corpus.
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Bounds the address space of this process: what asks for more ends it, and so fails the test.
pub(crate) fn bound_memory(bytes: u64) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let maximum = getrlimit(Resource::As).maximum;
        setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum }).expect("a limit");
    });
}

/// The folder of a format's seeds.
pub(crate) fn corpus(format: &str) -> PathBuf {
    let common = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../common");
    common.join("tests/corpus").join(format)
}

/// Writes a seed; for the tests that make the corpus anew.
pub(crate) fn plant(format: &str, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::create_dir_all(corpus(format)).expect("a folder");
    std::fs::write(corpus(format).join(name), bytes).expect("a seed");
}

/// All seeds of a format, in order of their names.
pub(crate) fn seeds(format: &str) -> Vec<Vec<u8>> {
    let folder = std::fs::read_dir(corpus(format)).expect("a corpus");
    let mut paths: Vec<PathBuf> = folder.map(|it| it.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no seeds of {format}");
    paths.into_iter().map(|path| std::fs::read(path).expect("a seed")).collect()
}

/// One thing that is done to bytes.
#[derive(Clone, Debug)]
enum Twist {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Write(prop::sample::Index, &'static [u8]),
    /// A piece of it once more, behind itself.
    Repeat(prop::sample::Index, usize),
    Remove(prop::sample::Index, usize),
}

/// Numbers and marks that lengths, counts and kinds are not expected to be.
const EXTREMES: [&[u8]; 12] = [
    &[0xff; 8],
    &[0xff; 4],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0, 0, 0, 0, 0, 0, 0, 0x80],
    &[0, 0, 0, 0],
    &[0x00, 0x00, 0xc0, 0x7f],
    &[0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xf8, 0x7f],
    b"99999999999",
    b"-1",
    b"\x80\x00\x00\x00\x00\x00\x00\x00\x7f\xff\xff\xff",
];

fn twist() -> impl Strategy<Value = Twist> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => (index(), 1_u8..).prop_map(|(at, by)| Twist::Flip(at, by)),
        1 => index().prop_map(Twist::Cut),
        1 => (index(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, it)| Twist::Insert(at, it)),
        3 => (index(), prop::sample::select(&EXTREMES[..])).prop_map(|(at, it)| Twist::Write(at, it)),
        1 => (index(), 1_usize..600).prop_map(|(at, length)| Twist::Repeat(at, length)),
        1 => (index(), 1_usize..40).prop_map(|(at, length)| Twist::Remove(at, length)),
    ]
}

fn twisted_by(mut bytes: Vec<u8>, twists: &[Twist]) -> Vec<u8> {
    for twist in twists {
        let place = |at: &prop::sample::Index| at.index(bytes.len() + 1);
        match twist {
            Twist::Flip(at, by) => {
                let at = place(at);
                bytes.get_mut(at).into_iter().for_each(|it| *it ^= by);
            }
            Twist::Cut(at) => bytes.truncate(place(at)),
            Twist::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Twist::Write(at, extreme) => {
                let at = place(at);
                let end = bytes.len().min(at + extreme.len());
                bytes.splice(at..end, extreme.iter().copied());
            }
            Twist::Repeat(at, length) => {
                let at = place(at);
                let end = bytes.len().min(at + length);
                let piece = bytes[at..end].to_vec();
                bytes.splice(end..end, piece);
            }
            Twist::Remove(at, length) => {
                let at = place(at);
                let end = bytes.len().min(at + length);
                bytes.drain(at..end);
            }
        }
    }
    bytes
}

/// A seed of the format with a few twists, or, now and then, any bytes at all.
pub(crate) fn twisted(format: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let seeds = seeds(format);
    let almost = (prop::sample::select(seeds), prop::collection::vec(twist(), 0..6))
        .prop_map(|(seed, twists)| twisted_by(seed, &twists));
    prop_oneof![15 => almost, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

/// Tries every seed of the format as it is, then as many twisted ones as there is time for.
pub(crate) fn try_all(format: &str, mut test: impl FnMut(Vec<u8>)) {
    seeds(format).into_iter().for_each(&mut test);
    let mut runner = proptest::test_runner::TestRunner::new(fuzzing());
    let cell = std::cell::RefCell::new(test);
    let outcome = runner.run(&twisted(format), |bytes| {
        cell.borrow_mut()(bytes);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{format}: {error}");
    }
}
