//! Keystone lab.

pub mod debian;
pub mod installer;
pub mod lab;
pub mod machine;
pub mod native;
pub mod run;
pub mod shell;
pub mod system;
