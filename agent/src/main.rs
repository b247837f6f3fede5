//! `keystone-agent`.
fn main() {}
