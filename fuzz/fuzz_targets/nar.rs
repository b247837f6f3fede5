//! Any bytes as a NAR.
#![no_main]

#[path = "../src/nar.rs"]
mod nar;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    nar::run(data);
});
