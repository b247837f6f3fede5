//! The target's Nix store: paths, database, profile.
//!
//! | module | job |
//! |---|---|
//! | [`nar`] | archives to and from the disk |
//! | [`closure`] | looks a manifest through |
//! | [`receive`] | blocks → verified paths → registered paths |
//! | `present` | what is there already of a closure |
//! | `pipeline` | the workers that unpack paths, checkpoints |
//! | `fetch` | paths that the machine fetches itself |
//! | `decode` | blocks' data, decompressed |
//! | [`held`] | what is like that of a closure which has to come, in chunks |
//! | `fs` | files below open directories, never through a link |
//! | `journal` | how far unfinished paths came |
//! | [`buffer`] | memory that is used again |
//! | `db` | Nix's database |
//! | [`derivation`] | outputs of derivations, for the database |
//! | [`profile`] | the system profile and what makes a root file system NixOS's |
//!
//! No Nix is needed: what Nix would find is written as Nix writes it, and
//! `nix-store --verify --check-contents` is the judge. [`Store::prepare`] makes the directories,
//! [`Store::receive`] fills them, [`Store::set_profile`] names the system.

pub mod buffer;
pub mod closure;
mod db;
mod decode;
pub mod derivation;
mod fetch;
pub(crate) mod fs;
pub mod held;
mod journal;
pub mod nar;
mod pipeline;
mod present;
pub mod profile;
pub mod receive;

pub use db::DbError;
pub use decode::{Unpacked, window_log};
pub use fs::FsError;
pub use held::Held;
pub use profile::ProfileError;
pub use receive::{Block, ClosureSource, Progress, ReceiveError, Received, SourceError};

use crate::ensure::Ensured;
use fs::{Io, OpenDir};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown};
use std::path::Path;

/// NixOS's group `nixbld`, to which the store belongs.
///
/// Source: nixpkgs `nixos/modules/misc/ids.nix`. The number, since the group need not exist yet.
const NIXBLD: u32 = 30_000;

/// The store below the target's root.
#[derive(Debug)]
pub struct Store {
    root: OpenDir,
    store: OpenDir,
    state: OpenDir,
    db: OpenDir,
    profiles: OpenDir,
}

impl Store {
    /// Makes the directories that Nix has, below `root` (`/mnt`).
    pub fn prepare(root: &Path) -> Result<(Store, Ensured), FsError> {
        let root = OpenDir::open(root)?;
        let mut changed = false;
        let mut make = |parent: &OpenDir, name: &str| {
            let (dir, made) = parent.ensure(name, 0o755)?;
            changed |= made;
            Ok::<OpenDir, FsError>(dir)
        };
        let nix = make(&root, "nix")?;
        let store = make(&nix, "store")?;
        make(&store, ".links")?;
        let var = make(&nix, "var")?;
        let state = make(&var, "nix")?;
        let db = make(&state, "db")?;
        make(&state, "temproots")?;
        let gcroots = make(&state, "gcroots")?;
        make(&gcroots, "per-user")?;
        let profiles = make(&state, "profiles")?;
        make(&profiles, "per-user")?;
        changed |= gcroots.ensure_symlink("profiles", "/nix/var/nix/profiles")?;
        changed |= state.ensure_empty_file("gc.lock", 0o600)?;
        changed |= own_store(&store)?;
        let ensured = if changed { Ensured::Created } else { Ensured::AlreadySo };
        Ok((Store { root, store, state, db, profiles }, ensured))
    }
}

/// Makes the store directory sticky, writable to and owned by Nix's build group.
fn own_store(store: &OpenDir) -> Result<bool, FsError> {
    const MODE: u32 = 0o1775;
    let stat = nix::sys::stat::fstat(&store.fd).at("look at", &store.path)?;
    let root = Uid::effective().is_root();
    let owned = !root || (stat.st_uid, stat.st_gid) == (0, NIXBLD);
    if owned && stat.st_mode & 0o7777 == MODE {
        return Ok(false);
    }
    if !owned {
        fchown(&store.fd, Some(Uid::from_raw(0)), Some(Gid::from_raw(NIXBLD)))
            .at("give to the build group", &store.path)?;
    }
    fchmod(&store.fd, Mode::from_bits_truncate(MODE)).at("set the mode of", &store.path)?;
    Ok(true)
}
