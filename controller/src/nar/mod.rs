//! Store paths as streams: packing, and sending in blocks.
//!
//! | module | job |
//! |---|---|
//! | [`mod@dump`] | writes the NAR of a file tree |
//! | [`hold`] | holds back the end of a NAR until it was found to be right |
//! | [`blocks`] | NARs' blocks, in order |
//! | `order` | decides how pieces are encoded, and has blocks made of them |
//! | `read` | several paths at once |
//! | [`delta`] | what the other end holds already, by its chunks |
//! | `compress` | blocks alone, or one long frame over them |
//! | [`pace`] | what is waited for, and what follows for the compression |
//! | `level` | a stream's level |
//! | `means` | what compressing may take of this computer |
//! | `room` | what may wait for the line, bounded in bytes |
//! | `idle` | how busy this computer is |

pub mod blocks;
mod compress;
pub mod delta;
pub mod dump;
pub mod hold;
mod idle;
mod level;
pub(crate) mod means;
mod order;
pub mod pace;
mod read;
mod room;

pub use blocks::{Block, BlockError, Blocks, Item};
pub use delta::{Delta, Known};
pub use dump::{Counted, DumpError, Skip, dump, dump_from};
pub use hold::HoldBack;
pub use pace::{Pace, Sent};
