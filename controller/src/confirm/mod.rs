//! What will be done, shown and agreed to.
//!
//! | module | job |
//! |---|---|
//! | [`render`] | the plan as text |
//! | [`action`] | a step's exact parameters as text |
//! | `tree` | what will be on the disks, as a tree |
//! | `device` | devices, keys |
//! | `storage` | tables, pools, logical volumes, RAIDs |
//! | [`machine`] | the inventory as text |
//! | `uses` | who uses what, from disks to mounts |
//! | [`consent`] | what counts as agreement |

pub mod action;
pub mod consent;
mod device;
pub mod machine;
pub mod render;
mod storage;
mod tree;
mod uses;

pub use consent::Consent;
pub use render::plan_text;

#[cfg(test)]
pub(crate) mod tests;
