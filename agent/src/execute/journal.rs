//! The journal: start and end of each step, a JSON line each, synced before the step goes on.
//!
//! It lies in `/run/keystone` of the running installer, so it tells a second agent in the same
//! session what a first one that was killed had begun. It holds no secret.

use keystone_protocol::event::Outcome;
use serde::Serialize;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;

/// Where the journal lies.
pub const JOURNAL: &str = "/run/keystone/journal.jsonl";

/// The journal can't be written.
#[derive(Debug, Error)]
#[error("writing the journal {}", path.display())]
pub struct JournalError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

#[derive(Serialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
enum Record<'a> {
    Plan { plan: &'a str },
    Started { step: &'a str },
    Finished { step: &'a str, outcome: Outcome },
    Failed { step: &'a str, error: String },
}

#[derive(Serialize)]
struct Line<'a> {
    unix_ms: u128,
    #[serde(flatten)]
    record: Record<'a>,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    /// Opens the journal at `path` for appending and notes the plan.
    pub fn open(path: &Path, plan: &str) -> Result<Journal, JournalError> {
        let fail = |source| JournalError { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
        }
        let file =
            OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(fail)?;
        let mut journal = Journal { file, path: path.to_owned() };
        journal.write(Record::Plan { plan })?;
        Ok(journal)
    }

    /// Notes that a step begins.
    pub fn started(&mut self, step: &str) -> Result<(), JournalError> {
        self.write(Record::Started { step })
    }

    /// Notes that a step ended well.
    pub fn finished(&mut self, step: &str, outcome: Outcome) -> Result<(), JournalError> {
        self.write(Record::Finished { step, outcome })
    }

    /// Notes that a step failed.
    pub fn failed(
        &mut self,
        step: &str,
        error: &dyn std::error::Error,
    ) -> Result<(), JournalError> {
        self.write(Record::Failed { step, error: error.to_string() })
    }

    fn write(&mut self, record: Record<'_>) -> Result<(), JournalError> {
        let unix_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let mut line = serde_json::to_vec(&Line { unix_ms, record })
            .expect("a journal line has no type that JSON can't hold");
        line.push(b'\n');
        self.file
            .write_all(&line)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| JournalError { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_one_line_and_reopening_appends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/journal.jsonl");
        Journal::open(&path, "aa").unwrap().started("pool:rpool").unwrap();
        let mut second = Journal::open(&path, "bb").unwrap();
        second.finished("pool:rpool", Outcome::AlreadySo).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let records: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<_> = records.iter().map(|r| r["record"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["plan", "started", "plan", "finished"]);
        assert_eq!(records[3]["outcome"], "already-so");
    }
}
