//! Any bytes as a bundle's footer, header and index.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    keystone_controller::bundle::format::fuzz(data);
});
