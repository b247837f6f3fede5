//! Numbers of the system's users and groups, from its own `/etc/passwd` and `/etc/group`.

use crate::store::fs::{FsError, OpenDir};
use keystone_protocol::options::Account;
use std::path::Path;
use thiserror::Error;

/// An account's number is not known.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The system's list can't be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// It is not in the list.
    #[error("the installed system has no {kind} {name:?}; its {file} has {}", known.join(", "))]
    Unknown {
        /// `user` or `group`.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// The list.
        file: &'static str,
        /// The names in it.
        known: Vec<String>,
    },
}

/// A user's number.
///
/// # Errors
/// The installed system has no such user.
pub fn user(root: &Path, account: &Account) -> Result<u32, AccountError> {
    number(root, account, "user", "passwd")
}

/// A group's number.
///
/// # Errors
/// The installed system has no such group.
pub fn group(root: &Path, account: &Account) -> Result<u32, AccountError> {
    number(root, account, "group", "group")
}

fn number(
    root: &Path,
    account: &Account,
    kind: &'static str,
    file: &'static str,
) -> Result<u32, AccountError> {
    let name = match account {
        Account::Id(id) => return Ok(*id),
        Account::Name(name) => name,
    };
    let list = OpenDir::open(root)?.enter("etc")?.read(file)?;
    let list = String::from_utf8_lossy(&list);
    // passwd(5) and group(5): name, password, number.
    let entries = list.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((name, fields.nth(1)?.parse().ok()?))
    });
    let found = entries.clone().find(|(found, _)| found == name);
    found.map(|(_, id)| id).ok_or_else(|| AccountError::Unknown {
        kind,
        name: name.clone(),
        file: if file == "passwd" { "/etc/passwd" } else { "/etc/group" },
        known: entries.map(|(name, _)| name.to_owned()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_installed_system() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1007:100::/home/alice:/bin/sh\n";
        std::fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(root.path().join("etc/group"), "users:x:100:\n").unwrap();
        let name = |name: &str| Account::Name(name.to_owned());
        assert_eq!(user(root.path(), &name("alice")).unwrap(), 1007);
        assert_eq!(group(root.path(), &name("users")).unwrap(), 100);
        assert_eq!(user(root.path(), &Account::Id(4)).unwrap(), 4);
        let error = user(root.path(), &name("bob")).unwrap_err().to_string();
        assert!(error.contains("no user \"bob\"") && error.contains("root, alice"), "{error}");
    }
}
