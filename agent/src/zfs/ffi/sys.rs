//! What bindgen makes of OpenZFS's headers, unchanged.
#![allow(
    missing_docs,
    unused_imports,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    dead_code,
    unreachable_pub
)]
#![allow(unnecessary_transmutes, clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/openzfs.rs"));
