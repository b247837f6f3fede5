//! Keystone lab.

pub mod machine;
pub mod native;
