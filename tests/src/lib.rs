//! Keystone lab.

pub mod native;
