//! Any bytes as a binary cache's description of a path.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    keystone_controller::closure::narinfo::fuzz(data);
});
