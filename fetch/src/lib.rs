//! Files from web servers, and what is compressed in them: what the controller does for a machine,
//! and the agent itself when it has the better line.
//!
//! | module | job |
//! |---|---|
//! | [`http`] | files from a web server, tried again and continued |
//! | [`address`] | addresses as they may be shown |
//! | [`resolve`] | from names to addresses, by whom the program chose |
//! | [`roots`] | whom to trust |
//! | [`decode`] | decompression piece by piece, within a given memory |
//! | [`told`] | whether a file is the one that was told of |
//! | [`error`] | what can go wrong |

pub mod address;
pub mod decode;
pub mod error;
pub mod http;
pub mod resolve;
pub mod roots;
pub mod told;

pub use address::shown;
pub use decode::Decoder;
pub use error::FetchError;
pub use http::{Http, HttpFile};
pub use resolve::Resolve;
pub use roots::Roots;
pub use told::Told;
