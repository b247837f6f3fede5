//! Hooks: shell text of the layout.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A hook of the layout, run as disko does: by bash, in a process of its own, with `set -efu`,
/// the variables defined first. Its output is shown; a failure of it is a failure of the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPlan {
    /// Where the hook is in the layout, `zpool.rpool.postCreateHook`.
    pub path: String,
    /// Which hook.
    pub hook: HookKind,
    /// Variables it can use: the attributes of what it belongs to, by disko's rules (`-` becomes
    /// `_`; no hooks, no contents), so `name`, `device`, `mountpoint`, …
    pub variables: BTreeMap<String, HookValue>,
    /// Its text, in full.
    pub script: String,
}

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookKind {
    /// Before it is made.
    PreCreate,
    /// After it and what is in it was made.
    PostCreate,
    /// Before it is opened or mounted.
    PreMount,
    /// After it was opened or mounted.
    PostMount,
    /// Before it is unmounted or closed.
    PreUnmount,
    /// After it was unmounted or closed.
    PostUnmount,
}

impl HookKind {
    /// The attribute's name in the layout.
    pub fn attribute(self) -> &'static str {
        match self {
            HookKind::PreCreate => "preCreateHook",
            HookKind::PostCreate => "postCreateHook",
            HookKind::PreMount => "preMountHook",
            HookKind::PostMount => "postMountHook",
            HookKind::PreUnmount => "preUnmountHook",
            HookKind::PostUnmount => "postUnmountHook",
        }
    }

    /// All hooks.
    pub const ALL: [HookKind; 6] = [
        HookKind::PreCreate,
        HookKind::PostCreate,
        HookKind::PreMount,
        HookKind::PostMount,
        HookKind::PreUnmount,
        HookKind::PostUnmount,
    ];
}

/// The value of a shell variable, as nixpkgs' `lib.toShellVar` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HookValue {
    /// `name='…'`.
    String(String),
    /// `declare -a name=('…' '…')`.
    List(Vec<String>),
    /// `declare -A name=(['…']='…')`.
    Set(BTreeMap<String, String>),
}
