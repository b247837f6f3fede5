//! Mounting and unmounting.
//!
//! | module | job |
//! |---|---|
//! | [`table`] | the mount table |

pub mod table;
