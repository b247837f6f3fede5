//! What can be wrong with a closure.

use super::cache::CacheError;
use crate::bundle::BundleError;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// The closure can't be installed, or can't be read.
#[derive(Debug, Error)]
pub enum ClosureError {
    /// The store has no database.
    #[error(
        "there is no Nix store at {}: {} does not exist (a store below another root is named \
         with --store ROOT)", root.display(), database.display()
    )]
    NoStore {
        /// The store's root.
        root: PathBuf,
        /// Its database.
        database: PathBuf,
    },
    /// The database is of another format.
    #[error("the store at {} has database schema {found}, only 10 is known", root.display())]
    Schema {
        /// The store's root.
        root: PathBuf,
        /// What its `schema` file says.
        found: String,
    },
    /// The database can't be read.
    #[error("can't read the store's database {}", database.display())]
    Database {
        /// The database.
        database: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The database has changes that only a writer can bring in.
    #[error(
        "the store's database {} has changes that are not checkpointed, and it can't be opened \
         for that: run once as a user who may write there, or run nix-store --version with \
         --store on it", database.display()
    )]
    PendingWal {
        /// The database.
        database: PathBuf,
    },
    /// What was given leads to no store path.
    #[error(
        "{} is not a store path nor a link to one (expected /nix/store/…-nixos-system-…; \
         nix build prints it with --print-out-paths)", given.display()
    )]
    NotAStorePath {
        /// What was given.
        given: PathBuf,
    },
    /// The store does not have the path.
    #[error("{path} is not a valid path of the store at {}: build it first, or name its store with --store", root.display())]
    NotValid {
        /// The path.
        path: String,
        /// The store's root.
        root: PathBuf,
    },
    /// A row of the database can't be used.
    #[error(
        "the store's database says of {path}: {what}; repair it with nix-store --verify --repair"
    )]
    BadRow {
        /// Whose row.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// A path of the closure is registered but not there.
    #[error(
        "{path} is registered as valid but not on the disk: repair the store with nix-store --verify --repair"
    )]
    Missing {
        /// The path.
        path: String,
    },
    /// The toplevel lacks what makes a NixOS system.
    #[error(
        "{toplevel} is not a NixOS system: it has no {} (expected config.system.build.toplevel)",
        missing.join(", ")
    )]
    NotASystem {
        /// The path.
        toplevel: String,
        /// What it lacks.
        missing: Vec<String>,
    },
    /// The system can't install its own boot loader.
    #[error(
        "{toplevel} has no bin/switch-to-configuration, which installs the boot loader: \
         set system.switch.enable = true in its configuration"
    )]
    NoSwitch {
        /// The path.
        toplevel: String,
    },
    /// Another boot loader than can be installed and checked.
    #[error(
        "{toplevel} installs {loader} as its boot loader: only systemd-boot and Lanzaboote are installed, since \
         of no other it can be said before the reboot whether the machine will boot; set \
         boot.loader.systemd-boot.enable = true in its configuration, and leave the other out"
    )]
    BootLoader {
        /// The path.
        toplevel: String,
        /// The boot loader's name.
        loader: &'static str,
    },
    /// The system is not Linux.
    #[error("{toplevel} is a system for {system}, not for Linux")]
    NotLinux {
        /// The path.
        toplevel: String,
        /// Its platform.
        system: String,
    },
    /// `boot.json` can't be read.
    #[error("{toplevel}/boot.json is not a bootspec of version 1")]
    BadBootspec {
        /// The path.
        toplevel: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// `boot.json` names something that would not be installed.
    #[error(
        "{toplevel}/boot.json names {path} ({field}), which is not in the system's closure and \
         would be missing on the machine; build the system anew"
    )]
    BootOutsideClosure {
        /// The system.
        toplevel: String,
        /// Which field, as a path in the document.
        field: String,
        /// What it names.
        path: String,
    },
    /// `boot.json` is of another system.
    #[error("{toplevel}/boot.json describes another system: {found}")]
    BootOfAnotherSystem {
        /// The system.
        toplevel: String,
        /// The one it describes.
        found: String,
    },
    /// `etc/fstab` can't be read.
    #[error("line {line} of {toplevel}/etc/fstab can't be read: {text}")]
    BadFstab {
        /// The system.
        toplevel: String,
        /// The line, from 1.
        line: usize,
        /// Its text.
        text: String,
    },
    /// `etc/hostid` is not one.
    #[error("{toplevel}/etc/hostid is not a host id: it has {length} bytes, not 4")]
    BadHostid {
        /// The system.
        toplevel: String,
        /// Its length.
        length: usize,
    },
    /// A ZFS root without a host id.
    #[error(
        "{toplevel} has a ZFS root and no host id (etc/hostid): a pool that another system had imported could \
         not be imported at boot. Set networking.hostId in its configuration \
         (head -c4 /dev/urandom | od -A none -t x4)"
    )]
    NoHostid {
        /// The system.
        toplevel: String,
    },
    /// A file of the closure leads out of it.
    #[error("{path} leads to {target}, which is not in the closure")]
    LeadsOut {
        /// The file.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// A file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path's contents are not what the database says.
    #[error(
        "{path} has a NAR of {found} bytes, the store's database says {expected}: the path was \
         changed; repair it with nix-store --repair-path {path}"
    )]
    SizeDiffers {
        /// The path.
        path: String,
        /// What the database says.
        expected: u64,
        /// What was read.
        found: u64,
    },
    /// A path contains what a NAR can't represent.
    #[error("{} can't be packed: {what}", path.display())]
    NotPackable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A path's contents are not what the source says.
    #[error(
        "{path} has a NAR with SHA-256 {found}, and its source says {expected}: it was changed or damaged"
    )]
    HashDiffers {
        /// The path.
        path: String,
        /// What the source says.
        expected: String,
        /// What was read.
        found: String,
    },
    /// A path is not signed by a trusted key.
    #[error("{path} has no signature by {required}: {signers}{others}; nothing was sent")]
    Untrusted {
        /// The path.
        path: String,
        /// Keys that would do, by name.
        required: String,
        /// Whose signatures it has, by their own account.
        signers: String,
        /// How many more there are like it.
        others: String,
    },
    /// A content-addressed path has other contents than its address says.
    #[error("{path} is content-addressed, and its contents are not those of its address")]
    Unproven {
        /// The path.
        path: String,
    },
    /// A cache can't be asked which of its paths is meant.
    #[error("a binary cache has many systems: name the one to take with --store-path")]
    NoToplevel,
    /// A binary cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A bundle.
    #[error("the bundle {} can't be used", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: BundleError,
    },
}
