//! What can be refused before the machine is contacted.

use crate::closure::{Closure, ClosureError};
use keystone_protocol::layout::{Disagreement, Layout, LayoutError, Mounted, agrees_with_fstab};
use thiserror::Error;

/// Layout and closure can't be installed together.
#[derive(Debug, Error)]
pub enum PreflightError {
    /// The layout can't be read, or has something that is not supported.
    #[error("the layout can't be used")]
    Layout(#[from] LayoutError),
    /// The closure can't be installed.
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// They describe different machines.
    #[error(
        "the layout and the system's fstab disagree, the system would not boot: {}. Give the \
         layout that the system was built with",
        disagreements.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Disagree {
        /// On what.
        disagreements: Vec<Disagreement>,
    },
}

/// Checks the layout, and that the closure was built for it.
pub fn preflight(layout: &str, closure: &Closure) -> Result<Layout, PreflightError> {
    let layout = Layout::parse(layout)?;
    let facts = &closure.facts;
    let zfs_root = layout
        .mounts()
        .iter()
        .any(|mount| mount.target == "/" && matches!(mount.what, Mounted::Dataset { .. }));
    if zfs_root && facts.hostid.is_none() {
        return Err(ClosureError::NoHostid { toplevel: facts.toplevel.clone() }.into());
    }
    let disagreements = agrees_with_fstab(&layout, &facts.fstab);
    match disagreements.is_empty() {
        true => Ok(layout),
        false => Err(PreflightError::Disagree { disagreements }),
    }
}
