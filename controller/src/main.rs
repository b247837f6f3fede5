//! `keystone`.
fn main() {}
