//! Random changes of files and messages.

use rand::Rng;
use rand::rngs::StdRng;

/// Texts and numbers that readers have failed on.
const ODD: &[&[u8]] = &[
    b"null",
    b"-1",
    b"9223372036854775808",
    b"\"\"",
    b"{}",
    b"[]",
    b"1e999",
    b"%",
    b"../",
    b"\xff",
    b"\x80\x80\x80\x80\x80",
];

/// Changes `bytes` in one to four places at random. Bytes without any stay so.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..=4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        let length = random.random_range(1..=bytes.len() - at).min(16);
        match random.random_range(0..7) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let copied = bytes[at..at + length].to_vec();
                bytes.splice(at..at, copied);
            }
            5 => drop(bytes.splice(at..at + length, ODD[random.random_range(0..ODD.len())].iter().copied())),
            // The lengths of footers and pages are near the end of a file.
            _ => {
                let near_end = bytes.len() - 1 - random.random_range(0..bytes.len().min(200));
                bytes[near_end] = random.random();
            }
        }
    }
}
