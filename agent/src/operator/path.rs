//! A path's directories, opened one by one.

use crate::store::fs::{FsError, OpenDir};
use std::path::{Component, Path};

/// The names of a path below the target's root; `None` if it leads upwards.
pub(super) fn names(path: &Path) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str()?),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(names)
}

/// The directory that holds the last of `names`, which must be there.
pub(super) fn parent(root: &Path, names: &[&str]) -> Result<OpenDir, FsError> {
    let mut dir = OpenDir::open(root)?;
    for name in &names[..names.len().saturating_sub(1)] {
        dir = dir.enter(name)?;
    }
    Ok(dir)
}

/// The same; directories that are missing are made, owned by root, mode 0755.
pub(super) fn ensure_parent(root: &Path, names: &[&str]) -> Result<OpenDir, FsError> {
    let mut dir = OpenDir::open(root)?;
    for name in &names[..names.len().saturating_sub(1)] {
        dir = dir.ensure(name, 0o755)?.0;
    }
    Ok(dir)
}
