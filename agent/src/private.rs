//! Keeping what this process knows to itself.

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

/// Keeps this process's memory out of core dumps and away from debuggers: it holds keys. What it
/// executes dumps nothing either.
///
/// Source: prctl(2), `PR_SET_DUMPABLE`; core(5): a limit of 0 does not stop a dump into a pipe.
pub fn keep_memory_private() {
    let dumpable = set_dumpable(false);
    let limit = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    debug_assert!(dumpable.is_ok() && limit.is_ok(), "{dumpable:?} {limit:?}");
}
