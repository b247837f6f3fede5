//! Inventory + layout + options → plan. Pure.

pub mod geometry;
mod words;
