//! Nix's database, `/nix/var/nix/db/db.sqlite`, schema 10.
//!
//! Source: Nix 2.26 `src/libstore/schema.sql` and `local-store.cc`. A path's row and its
//! references are all there is to its being valid, so everything is written in one transaction,
//! after the paths themselves have reached the disk.

use super::closure::Closure;
use super::fs::{FsError, Io, OpenDir};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fchmod};
use rusqlite::{Connection, OpenFlags, params};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;
use thiserror::Error;

/// The version in the file `schema`.
const SCHEMA_VERSION: &str = "10";
/// Size of the file `reserved`, which the garbage collector frees when the disk is full.
const RESERVED: usize = 8 << 20;
/// How long to wait for whoever has the database locked.
const BUSY: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
create table if not exists ValidPaths (
    id               integer primary key autoincrement not null,
    path             text unique not null,
    hash             text not null,
    registrationTime integer not null,
    deriver          text,
    narSize          integer,
    ultimate         integer,
    sigs             text,
    ca               text
);
create table if not exists Refs (
    referrer  integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
create index if not exists IndexReferrer on Refs(referrer);
create index if not exists IndexReference on Refs(reference);
create trigger if not exists DeleteSelfRefs before delete on ValidPaths
  begin
    delete from Refs where referrer = old.id and reference = old.id;
  end;
create table if not exists DerivationOutputs (
    drv  integer not null,
    id   text not null,
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
create index if not exists IndexDerivationOutputs on DerivationOutputs(path);
create table if not exists SchemaMigrations (migration text primary key not null);
";

/// The database failed.
#[derive(Debug, Error)]
pub enum DbError {
    /// SQLite did.
    #[error("could not {action} in the store's database")]
    Sqlite {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: rusqlite::Error,
    },
    /// A file beside it did.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Another Nix made it.
    #[error(
        "the store's database has schema version {found:?}, and this writes {SCHEMA_VERSION}: \
         the disk holds the store of another Nix"
    )]
    Version {
        /// What its file says.
        found: String,
    },
    /// A path is registered with contents other than those to install.
    #[error(
        "{path} is registered with contents other than those to install ({registered}): \
         the disk holds the store of another system"
    )]
    Conflict {
        /// Which.
        path: String,
        /// The hash in the database.
        registered: String,
    },
}

trait Doing<T> {
    fn doing(self, action: &'static str) -> Result<T, DbError>;
}

impl<T> Doing<T> for rusqlite::Result<T> {
    fn doing(self, action: &'static str) -> Result<T, DbError> {
        self.map_err(|source| DbError::Sqlite { action, source })
    }
}

/// Outputs of a derivation: position in the closure and (output id, path).
pub(crate) type Derivation = (usize, Vec<(String, String)>);

/// The hash in the database, as Nix writes it.
fn hash(sha256: &[u8; 32]) -> String {
    format!("sha256:{}", hex::encode(sha256))
}

/// Which of the closure's paths are registered, with the contents to install.
pub(crate) fn registered(dir: &OpenDir, closure: &Closure) -> Result<Vec<bool>, DbError> {
    check_version(dir)?;
    if dir.stat("db.sqlite")?.is_none() {
        return Ok(vec![false; closure.entries.len()]);
    }
    let connection = open(dir)?;
    let valid = valid_paths(&connection)?;
    close(connection)?;
    closure
        .entries
        .iter()
        .map(|entry| match valid.get(&entry.info.path) {
            None => Ok(false),
            Some((_, found)) if *found == hash(&entry.sha256) => Ok(true),
            Some((_, found)) => {
                Err(DbError::Conflict { path: entry.info.path.clone(), registered: found.clone() })
            }
        })
        .collect()
}

/// Registers the closure; makes the database if there is none. Returns how many paths were not
/// registered before. The files beside the database reach the disk when the caller syncs it.
pub(crate) fn register(
    dir: &OpenDir,
    closure: &Closure,
    derivations: &[Derivation],
    now: i64,
) -> Result<usize, DbError> {
    check_version(dir)?;
    let mut connection = open(dir)?;
    let added = write(&mut connection, closure, derivations, now)?;
    // What is in the write-ahead log reaches the disk, and then the database's file; the log is
    // removed when closed.
    connection
        .query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
        .doing("empty the log")?;
    close(connection)?;
    // SQLite goes by the umask; Nix's clients that are not root read the file.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(&dir.fd, "db.sqlite", flags, Mode::empty());
    file.and_then(|fd| fchmod(fd, Mode::from_bits_truncate(0o644)))
        .at("set the mode of", dir.path.join("db.sqlite"))?;
    ensure_file(dir, "big-lock", 0o600, b"")?;
    if dir.stat("reserved")?.is_none_or(|stat| stat.st_size != RESERVED as i64) {
        ensure_file(dir, "reserved", 0o600, &vec![b'X'; RESERVED])?;
    }
    // The last: who is stopped before it finds no schema. What reaches the disk first, only the
    // caller's sync says.
    ensure_file(dir, "schema", 0o644, SCHEMA_VERSION.as_bytes())?;
    Ok(added)
}

fn check_version(dir: &OpenDir) -> Result<(), DbError> {
    if dir.stat("schema")?.is_none() {
        return Ok(());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let path = dir.path.join("schema");
    let fd = openat(&dir.fd, "schema", flags, Mode::empty()).at("open", &path)?;
    let mut found = String::new();
    File::from(fd).take(64).read_to_string(&mut found).at("read", &path)?;
    // A file that lost its contents with the power is one that was not written yet.
    if found.is_empty() || found.trim_end() == SCHEMA_VERSION {
        Ok(())
    } else {
        Err(DbError::Version { found })
    }
}

fn open(dir: &OpenDir) -> Result<Connection, DbError> {
    // SQLite opens files by path and makes others beside them.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection =
        Connection::open_with_flags(dir.path.join("db.sqlite"), flags).doing("open the file")?;
    connection.busy_timeout(BUSY).doing("set a time-out")?;
    connection
        .execute_batch(
            "pragma page_size = 4096; pragma foreign_keys = on; pragma synchronous = normal;",
        )
        .doing("set pragmas")?;
    connection
        .query_row("pragma journal_mode = wal", [], |row| row.get::<_, String>(0))
        .doing("start a write-ahead log")?;
    Ok(connection)
}

fn close(connection: Connection) -> Result<(), DbError> {
    connection.close().map_err(|(_, source)| source).doing("close the file")
}

/// Registered paths, with id and hash.
fn valid_paths(connection: &Connection) -> Result<HashMap<String, (i64, String)>, DbError> {
    const READ: &str = "read the registered paths";
    let exists: bool = connection
        .query_row(
            "select exists (select 1 from sqlite_master where name = 'ValidPaths')",
            [],
            |r| r.get(0),
        )
        .doing(READ)?;
    if !exists {
        return Ok(HashMap::new());
    }
    let mut select = connection.prepare("select path, id, hash from ValidPaths").doing(READ)?;
    let rows =
        select.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).doing(READ)?;
    rows.collect::<rusqlite::Result<_>>().doing(READ)
}

fn write(
    connection: &mut Connection,
    closure: &Closure,
    derivations: &[Derivation],
    now: i64,
) -> Result<usize, DbError> {
    const PATHS: &str = "register the paths";
    const REFERENCES: &str = "register the references";
    let transaction = connection.transaction().doing("begin a transaction")?;
    transaction.execute_batch(SCHEMA).doing("make the tables")?;
    let valid = valid_paths(&transaction)?;
    let mut ids = Vec::with_capacity(closure.entries.len());
    let mut added = 0;
    {
        // `ultimate` stays NULL: the path was copied, not built here.
        let mut insert = transaction
            .prepare(
                "insert into ValidPaths (path, hash, registrationTime, deriver, narSize, sigs, ca) \
                 values (?, ?, ?, ?, ?, ?, ?)",
            )
            .doing(PATHS)?;
        for entry in &closure.entries {
            let info = entry.info;
            if let Some((id, _)) = valid.get(&info.path) {
                ids.push(*id);
                continue;
            }
            let signatures = (!info.signatures.is_empty()).then(|| info.signatures.join(" "));
            let id = insert
                .insert(params![
                    info.path,
                    hash(&entry.sha256),
                    now,
                    info.deriver,
                    info.nar_size as i64,
                    signatures,
                    info.ca
                ])
                .doing(PATHS)?;
            ids.push(id);
            added += 1;
        }
        let mut insert = transaction
            .prepare("insert or ignore into Refs (referrer, reference) values (?, ?)")
            .doing(REFERENCES)?;
        for (entry, id) in closure.entries.iter().zip(&ids) {
            for reference in &entry.references {
                insert.execute([id, &ids[*reference]]).doing(REFERENCES)?;
            }
        }
        let mut insert = transaction
            .prepare("insert or replace into DerivationOutputs (drv, id, path) values (?, ?, ?)")
            .doing(REFERENCES)?;
        for (drv, outputs) in derivations {
            for (output, path) in outputs {
                insert.execute(params![ids[*drv], output, path]).doing(REFERENCES)?;
            }
        }
    }
    transaction.commit().doing("commit")?;
    Ok(added)
}

/// Makes or overwrites a file, unless it is there as it should be.
fn ensure_file(dir: &OpenDir, name: &str, mode: u32, contents: &[u8]) -> Result<(), FsError> {
    let path = dir.path.join(name);
    let is_so =
        |stat: FileStat| stat.st_mode & 0o7777 == mode && stat.st_size == contents.len() as i64;
    if dir.stat(name)?.is_some_and(is_so) {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&dir.fd, name, flags, Mode::empty()).at("open", &path)?;
        let mut found = Vec::new();
        File::from(fd).take(contents.len() as u64).read_to_end(&mut found).at("read", &path)?;
        if found == contents {
            return Ok(());
        }
    }
    let mode = Mode::from_bits_truncate(mode);
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = openat(&dir.fd, name, flags, mode).at("make file", &path)?;
    fchmod(&fd, mode).at("set the mode of", &path)?;
    let mut file = File::from(fd);
    file.write_all(contents).at("write", &path)
}
