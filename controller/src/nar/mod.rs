//! Store paths as streams: packing, and sending in blocks.
//!
//! | module | job |
//! |---|---|
//! | [`mod@dump`] | writes the NAR of a file tree |
//! | [`hold`] | holds back the end of a NAR until it was found to be right |
//! | [`blocks`] | cuts NARs into blocks, compresses those where it helps, in order |

pub mod blocks;
pub mod dump;
pub mod hold;

pub use blocks::{Block, BlockError, Blocks};
pub use dump::{Counted, DumpError, dump};
pub use hold::HoldBack;
