//! Why a layout can't be used. Every error names its place in the document.

use thiserror::Error;

/// A layout that can't be read, is wrong in itself, or is not supported.
///
/// Places are written as in Nix: `disk.root.content.partitions.esp.content`.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// Not JSON at all.
    #[error("the layout is not JSON")]
    Json(#[source] serde_json::Error),
    /// A value of another JSON type than the attribute has.
    #[error("{path}: expected {expected}, found {found}")]
    WrongType {
        /// Where.
        path: String,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// An attribute without which nothing can be planned.
    #[error("{path}: the attribute `{attribute}` is missing")]
    Missing {
        /// Where.
        path: String,
        /// Which attribute.
        attribute: &'static str,
    },
    /// An attribute that the type does not have.
    #[error("{path}: unknown attribute `{attribute}`{}", did_you_mean(.closest))]
    UnknownAttribute {
        /// Where.
        path: String,
        /// Which attribute.
        attribute: String,
        /// The nearest one that the type has.
        closest: Option<&'static str>,
    },
    /// A type, format or mode that the language does not have.
    #[error("{path}: unknown {what} `{found}`{}", did_you_mean(.closest))]
    UnknownName {
        /// Where.
        path: String,
        /// What is named: `type`, `file system`, …
        what: &'static str,
        /// The name.
        found: String,
        /// The nearest one that exists.
        closest: Option<&'static str>,
    },
    /// A part of the language that disko has and this version does not.
    #[error("{path}: {what} not supported yet")]
    NotSupported {
        /// Where.
        path: String,
        /// What, with its verb: `lvm_pv is`, `hooks are`.
        what: String,
    },
    /// A value that is wrong by itself or beside the others.
    #[error("{path}: {problem}")]
    Invalid {
        /// Where.
        path: String,
        /// Why, and what would be right.
        problem: String,
    },
}

impl LayoutError {
    pub(super) fn invalid(path: impl Into<String>, problem: impl Into<String>) -> Self {
        LayoutError::Invalid { path: path.into(), problem: problem.into() }
    }

    pub(super) fn not_supported(path: impl Into<String>, what: impl Into<String>) -> Self {
        LayoutError::NotSupported { path: path.into(), what: what.into() }
    }
}

fn did_you_mean(closest: &Option<&'static str>) -> String {
    closest.map(|name| format!("; the closest known one is `{name}`")).unwrap_or_default()
}

/// The known name nearest to `found`, unless none is near.
pub(super) fn closest(
    found: &str,
    known: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&found.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(similarity, _)| *similarity >= 0.7)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}
