//! Bytes that nobody should send, for everything that reads bytes from a network, a file or an operator.
//!
//! Each target starts from inputs that make sense (`seeds.rs`), mutates them, and keeps those that led
//! to an outcome not seen before, to go on from there. What a target returns tells outcomes apart; what
//! it must never do is panic, and most also check that they stay true to themselves: bytes that arrive in
//! two pieces mean what they mean in one, and what was read can be written and read again.
//!
//! Without anything else a run is short and the same each time. `scripts/fuzz-short` takes another seed
//! each time and more of it:
//!
//! ```text
//! FASTMQ_FUZZ_SECONDS=60 FASTMQ_FUZZ_SEED=7 cargo test --test fuzz -- --nocapture
//! FASTMQ_FUZZ_INPUT=00ff cargo test --test fuzz mqtt_packets    # one input, in hexadecimal
//! ```

#![forbid(unsafe_code)]
#![cfg(not(loom))]

mod mutator;
mod seeds;
mod targets;

use std::collections::HashSet;
use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use mutator::Mutator;

/// Inputs of a target when no time is given.
const INPUTS: u64 = 20_000;
/// Inputs that are kept because they led somewhere new.
const KEPT_MAX: usize = 4096;
const SEED: u64 = 0x6d71_7474;

/// What came of one input, as far as it makes it worth to go on from there.
fn outcome(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Gives `target` inputs made of `seeds`, until there have been enough.
fn fuzz(name: &str, seeds: &[&[u8]], words: &[&[u8]], target: impl Fn(&[u8]) -> u64) {
    if let Ok(input) = env::var("FASTMQ_FUZZ_INPUT") {
        target(&from_hex(&input));
        return;
    }
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("FASTMQ_FUZZ_SEED").unwrap_or(SEED);
    let deadline =
        number("FASTMQ_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut mutator = Mutator::new(seed, words);
    let mut kept: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.to_vec()).collect();
    let mut seen = HashSet::new();
    let mut count = 0;
    for seed in &kept {
        seen.insert(run(name, &target, seed));
    }
    loop {
        let is_over = match deadline {
            // A clock for every input would cost more than many inputs.
            Some(deadline) => count % 256 == 0 && Instant::now() >= deadline,
            None => count == INPUTS,
        };
        if is_over {
            break;
        }
        let input = mutator.mutate(&kept);
        if seen.insert(run(name, &target, &input)) && kept.len() < KEPT_MAX {
            kept.push(input);
        }
        count += 1;
    }
    println!(
        "{name}: {count} inputs of seed {seed}, {} outcomes",
        seen.len()
    );
    // A target that gives the same answer to everything reads nothing.
    assert!(seen.len() > 1, "{name} has one outcome only");
}

fn run(name: &str, target: &impl Fn(&[u8]) -> u64, input: &[u8]) -> u64 {
    match catch_unwind(AssertUnwindSafe(|| target(input))) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!(
                "the input was {:?}; again: FASTMQ_FUZZ_INPUT={hex} cargo test --test fuzz {name}",
                String::from_utf8_lossy(input)
            );
            resume_unwind(panic);
        }
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect()
}
