//! Where a closure comes from, and what is wanted of it.

use super::cache::{Cache, Keeping};
use super::files::Files;
use super::nar_files::NarFiles;
use super::trust::Proving;
use super::{Closure, ClosureError, ClosureSource, LocalSource, Store, Trust, database, facts};
use crate::bundle::{Bundle, Signed};
use keystone_protocol::manifest::Manifest;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// Where a closure comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A store on this computer.
    Store(Store),
    /// A binary cache.
    Cache(Arc<Cache>),
    /// A bundle.
    Bundle(Arc<Bundle>),
}

/// A closure whose paths are trusted, and where its contents come from.
#[derive(Clone)]
pub struct Found {
    /// Its paths.
    pub manifest: Manifest,
    /// Their contents, which are checked where trust depends on it.
    pub source: Arc<dyn ClosureSource>,
}

impl Origin {
    /// The binary cache at an address, or the bundle at a path.
    pub fn named(from: &str) -> Result<Self, ClosureError> {
        match from.contains("://") {
            true => Ok(Origin::Cache(Arc::new(Cache::open(from)?))),
            false => Ok(Origin::Bundle(Arc::new(Bundle::open(Path::new(from))?))),
        }
    }

    /// The closure of what was `given`: a store path, a link to one, or nothing where the origin
    /// has only one system. With `trust`, every path of it must be trusted.
    pub fn find(&self, given: Option<&Path>, trust: Option<&Trust>) -> Result<Found, ClosureError> {
        let (manifest, source): (Manifest, Arc<dyn ClosureSource>) = match (self, given) {
            (Origin::Bundle(bundle), None) => {
                (bundle.manifest().clone(), Arc::<Bundle>::clone(bundle))
            }
            (_, None) => return Err(ClosureError::NoToplevel),
            (Origin::Store(store), Some(given)) => {
                let toplevel = store.locate(given)?;
                let source = Arc::new(LocalSource::new(store.clone()));
                (database::closure(store, &toplevel)?, source)
            }
            (Origin::Cache(cache), Some(given)) => {
                let toplevel = Store::default().locate(given)?;
                (cache.closure(&toplevel)?, Arc::<Cache>::clone(cache))
            }
            (Origin::Bundle(bundle), Some(given)) => {
                let toplevel = Store::default().locate(given)?;
                let part = part(bundle.manifest(), &toplevel);
                let lacks = || ClosureError::Bundle {
                    path: bundle.path().to_owned(),
                    source: crate::bundle::BundleError::Lacks(toplevel.clone()),
                };
                (part.ok_or_else(lacks)?, Arc::<Bundle>::clone(bundle))
            }
        };
        let source = match trust {
            Some(trust) if !self.vouches(trust) => Proving::over(source, trust.check(&manifest)?),
            _ => source,
        };
        Ok(Found { manifest, source })
    }

    /// A system that can be installed, checked.
    pub fn system(
        &self,
        given: Option<&Path>,
        trust: Option<&Trust>,
    ) -> Result<(Closure, Arc<dyn ClosureSource>), ClosureError> {
        let Found { manifest, source } = self.find(given, trust)?;
        let files: Box<dyn Files> = match self {
            Origin::Store(store) => Box::new(store.clone()),
            Origin::Cache(cache) => {
                let keeping = Arc::new(Keeping(Arc::clone(cache)));
                Box::new(NarFiles::new(keeping, &manifest))
            }
            Origin::Bundle(bundle) => {
                Box::new(NarFiles::new(Arc::<Bundle>::clone(bundle), &manifest))
            }
        };
        let facts = facts::read(files.as_ref(), &manifest)?;
        Ok((Closure { manifest, facts }, source))
    }

    /// A trusted key's signature of a bundle stands for signatures of all its paths.
    fn vouches(&self, trust: &Trust) -> bool {
        match self {
            Origin::Bundle(bundle) => matches!(bundle.signed_by(trust.keys()), Signed::By(_)),
            Origin::Store(_) | Origin::Cache(_) => false,
        }
    }
}

/// The closure of a path of a manifest; `None` if it is not one.
fn part(manifest: &Manifest, toplevel: &str) -> Option<Manifest> {
    let by_path: HashMap<&str, _> =
        manifest.paths.iter().map(|info| (info.path.as_str(), info)).collect();
    let mut wanted: HashSet<&str> = HashSet::new();
    let mut todo = vec![toplevel];
    while let Some(path) = todo.pop() {
        let (path, info) = by_path.get_key_value(path)?;
        if wanted.insert(path) {
            todo.extend(info.references.iter().map(String::as_str));
        }
    }
    let paths = manifest.paths.iter().filter(|info| wanted.contains(info.path.as_str()));
    Some(Manifest { toplevel: toplevel.to_owned(), paths: paths.cloned().collect() })
}
