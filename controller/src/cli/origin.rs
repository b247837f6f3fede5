//! Options that say which closure, where it comes from, and whom to trust.

use crate::bundle::Bundle;
use crate::closure::origin::Found;
use crate::closure::signature::PublicKey;
use crate::closure::{Closure, ClosureError, ClosureSource, Origin, Store, Trust};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Which closure, and where it comes from.
#[derive(Debug, Clone, Args)]
pub struct OriginArgs {
    /// The system: its store path, or a link to it such as ./result, or a bundle of it
    #[arg(long, value_name = "TOPLEVEL")]
    pub store_path: Option<PathBuf>,
    /// Where to take it from.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Where to take it from, and whom to trust.
#[derive(Debug, Clone, Args)]
pub struct PlaceArgs {
    /// Read the store below this directory, as Nix's local?root=ROOT
    #[arg(long, value_name = "ROOT", default_value = "/")]
    pub store: PathBuf,
    /// Take it from a binary cache (file:///DIRECTORY, http://…, https://…) or from a bundle
    #[arg(long, value_name = "URL|FILE", conflicts_with = "store")]
    pub from: Option<String>,
    /// Refuse paths that are neither signed with one of these keys (NAME:BASE64) nor addressed by
    /// their contents, before anything is sent
    #[arg(long, value_name = "KEY", num_args = 1..)]
    pub require_signatures: Vec<PublicKey>,
}

impl OriginArgs {
    /// Its paths.
    pub fn find(&self) -> Result<Found, ClosureError> {
        let (origin, given) = self.place.origin(self.store_path.as_deref())?;
        origin.find(given, self.place.trust().as_ref())
    }

    /// A system that can be installed.
    pub fn system(&self) -> Result<(Closure, Arc<dyn ClosureSource>), ClosureError> {
        let (origin, given) = self.place.origin(self.store_path.as_deref())?;
        origin.system(given, self.place.trust().as_ref())
    }
}

impl PlaceArgs {
    /// The place, and what is wanted of it.
    pub fn origin<'a>(
        &self,
        given: Option<&'a Path>,
    ) -> Result<(Origin, Option<&'a Path>), ClosureError> {
        match (&self.from, given) {
            (Some(from), given) => Ok((Origin::named(from)?, given)),
            (None, Some(file)) if Bundle::is_one(file) => {
                Ok((Origin::Bundle(Arc::new(Bundle::open(file)?)), None))
            }
            (None, given) => Ok((Origin::Store(Store::below(&self.store)), given)),
        }
    }

    /// Whom to trust, if signatures are required.
    pub fn trust(&self) -> Option<Trust> {
        match self.require_signatures.as_slice() {
            [] => None,
            keys => Some(Trust::new(keys.to_vec())),
        }
    }
}
