//! Store paths as streams: packing, and sending in blocks.
//!
//! | module | job |
//! |---|---|
//! | [`mod@dump`] | writes the NAR of a file tree |
//! | [`blocks`] | cuts NARs into blocks, compresses those where it helps, in order |

pub mod blocks;
pub mod dump;

pub use blocks::{Block, BlockError, Blocks};
pub use dump::{Counted, DumpError, dump};
