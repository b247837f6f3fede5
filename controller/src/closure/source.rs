//! Where the contents of store paths come from.
//!
//! A source is whatever can write the NAR of a path of the manifest: the local store here, a binary
//! cache ([`super::cache`]), a bundle ([`crate::bundle`]).

use super::Store;
use super::error::ClosureError;
use crate::nar;
use keystone_protocol::fetch::Fetch;
use keystone_protocol::manifest::PathInfo;
use std::io::Write;
use std::path::Path;

/// Gives the contents of store paths. Used from several threads.
pub trait ClosureSource: Send + Sync {
    /// Writes the whole NAR of `path`. An error of `out` is passed on as it is.
    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), nar::DumpError>;

    /// The same without the first `from` bytes, which the machine has already. Here they are read and left out,
    /// and `out` is told by empty writes that they are.
    fn dump_from(
        &self,
        path: &PathInfo,
        from: u64,
        out: &mut dyn Write,
    ) -> Result<(), nar::DumpError> {
        self.dump(path, &mut nar::Skip::new(out, from))
    }

    /// Where a machine could fetch these paths (with their indexes in the manifest) itself, as far
    /// as it could. Not those whose trust depends on what they contain, which is looked at here.
    fn elsewhere(&self, paths: &[(u32, &PathInfo)]) -> Option<Fetch> {
        let _ = paths;
        None
    }
}

/// The local store.
#[derive(Debug, Clone, Default)]
pub struct LocalSource {
    store: Store,
}

impl LocalSource {
    /// Reads from `store`.
    pub fn new(store: Store) -> Self {
        LocalSource { store }
    }
}

impl ClosureSource for LocalSource {
    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), nar::DumpError> {
        self.dump_from(path, 0, out)
    }

    fn dump_from(
        &self,
        path: &PathInfo,
        from: u64,
        out: &mut dyn Write,
    ) -> Result<(), nar::DumpError> {
        let mut counted = nar::Counted::new(out);
        nar::dump_from(&self.store.physical(Path::new(&path.path)), from, &mut counted)?;
        if counted.count() + from != path.nar_size {
            return Err(nar::DumpError::Source(ClosureError::SizeDiffers {
                path: path.path.clone(),
                expected: path.nar_size,
                found: counted.count() + from,
            }));
        }
        Ok(())
    }
}
