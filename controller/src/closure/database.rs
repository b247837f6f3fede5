//! The closure from a store's `db.sqlite`.
//!
//! Format: Nix's schema 10 (src/libstore/schema.sql): `ValidPaths(id, path, hash,
//! registrationTime, deriver, narSize, ultimate, sigs, ca)`, `Refs(referrer, reference)`; `hash`
//! is `sha256:` and 64 hex digits. Read only, without locks: rows of valid paths do not change.

use super::error::ClosureError;
use super::store::Store;
use keystone_protocol::manifest::{Manifest, PathInfo};
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Everything of the closure of `toplevel` but its contents, sorted by path.
pub fn closure(store: &Store, toplevel: &str) -> Result<Manifest, ClosureError> {
    let database = store.database();
    let connection = open(store)?;
    let read = || -> rusqlite::Result<Vec<Row>> { rows(&connection, toplevel) };
    let rows = read().map_err(|source| ClosureError::Database { database, source })?;
    if rows.is_empty() {
        return Err(ClosureError::NotValid {
            path: toplevel.to_owned(),
            root: store.root().to_owned(),
        });
    }
    let mut paths = Vec::with_capacity(rows.len());
    for row in rows {
        let bad = |what: &str| ClosureError::BadRow { path: row.path.clone(), what: what.into() };
        let nar_sha256 = row
            .hash
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or_else(|| bad("its hash is not sha256 in hexadecimal"))?
            .to_ascii_lowercase();
        let nar_size = row
            .nar_size
            .and_then(|size| u64::try_from(size).ok())
            .filter(|&size| size != 0)
            .ok_or_else(|| bad("its NAR size is not known"))?;
        if store.physical(Path::new(&row.path)).symlink_metadata().is_err() {
            return Err(ClosureError::Missing { path: row.path });
        }
        paths.push(PathInfo {
            nar_sha256,
            nar_size,
            references: row.references,
            deriver: row.deriver.filter(|d| !d.is_empty()),
            signatures: words(row.sigs),
            ca: row.ca.filter(|ca| !ca.is_empty()),
            path: row.path,
        });
    }
    Ok(Manifest { toplevel: toplevel.to_owned(), paths })
}

struct Row {
    path: String,
    hash: String,
    nar_size: Option<i64>,
    deriver: Option<String>,
    sigs: Option<String>,
    ca: Option<String>,
    references: Vec<String>,
}

fn rows(connection: &Connection, toplevel: &str) -> rusqlite::Result<Vec<Row>> {
    // One snapshot for both queries.
    let transaction = connection.unchecked_transaction()?;
    const CLOSURE: &str = "WITH RECURSIVE closure(id) AS (
            SELECT id FROM ValidPaths WHERE path = ?1
            UNION SELECT reference FROM Refs JOIN closure ON referrer = closure.id)";
    let mut references: HashMap<i64, Vec<String>> = HashMap::new();
    let mut query = transaction.prepare(&format!(
        "{CLOSURE} SELECT referrer, path FROM closure JOIN Refs ON referrer = closure.id
         JOIN ValidPaths ON ValidPaths.id = reference ORDER BY path"
    ))?;
    let mut found = query.query(params![toplevel])?;
    while let Some(row) = found.next()? {
        references.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    let mut query = transaction.prepare(&format!(
        "{CLOSURE} SELECT ValidPaths.id, path, hash, narSize, deriver, sigs, ca
         FROM closure JOIN ValidPaths ON ValidPaths.id = closure.id ORDER BY path"
    ))?;
    let rows = query.query_map(params![toplevel], |row| {
        Ok(Row {
            references: references.remove(&row.get(0)?).unwrap_or_default(),
            path: row.get(1)?,
            hash: row.get(2)?,
            nar_size: row.get(3)?,
            deriver: row.get(4)?,
            sigs: row.get(5)?,
            ca: row.get(6)?,
        })
    })?;
    rows.collect()
}

fn words(text: Option<String>) -> Vec<String> {
    text.as_deref().unwrap_or_default().split_whitespace().map(str::to_owned).collect()
}

/// Opens the database to read, without creating anything beside it.
///
/// A database in WAL mode on a read-only medium, or in a directory of somebody else without a
/// `-shm` file, can only be opened as immutable; that is right as long as no `-wal` file holds
/// changes (SQLite, "Write-Ahead Logging", section 7).
fn open(store: &Store) -> Result<Connection, ClosureError> {
    let database = store.database();
    if !database.exists() {
        return Err(ClosureError::NoStore { root: store.root().to_owned(), database });
    }
    let schema = std::fs::read_to_string(database.with_file_name("schema")).unwrap_or_default();
    if schema.trim() != "10" {
        let found = match schema.trim() {
            "" => "unknown".to_owned(),
            text => text.to_owned(),
        };
        return Err(ClosureError::Schema { root: store.root().to_owned(), found });
    }
    let fail = |source| ClosureError::Database { database: database.clone(), source };
    let try_open = |query: &str| -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(uri(&database, query), flags)?;
        connection.busy_timeout(std::time::Duration::from_secs(10))?;
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(connection)
    };
    match try_open("mode=ro") {
        Ok(connection) => Ok(connection),
        Err(e)
            if matches!(
                e.sqlite_error_code(),
                Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied)
            ) =>
        {
            let mut wal = database.clone().into_os_string();
            wal.push("-wal");
            match Path::new(&wal).symlink_metadata() {
                Ok(meta) if meta.len() > 0 => Err(ClosureError::PendingWal { database }),
                _ => try_open("mode=ro&immutable=1").map_err(fail),
            }
        }
        Err(e) => Err(fail(e)),
    }
}

/// SQLite's URI for a file (sqlite.org/uri.html): reserved bytes percent-encoded.
fn uri(path: &Path, query: &str) -> String {
    let mut uri = String::from("file:");
    for &b in path.as_os_str().as_bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                uri.push(b as char);
            }
            _ => uri.push_str(&format!("%{b:02X}")),
        }
    }
    uri.push('?');
    uri.push_str(query);
    uri
}
