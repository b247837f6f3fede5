//! Compressed files that were looked into before the transfer, kept for it.
//!
//! They have no names, so nothing is left of them however the program ends.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Files kept at most: each is an open file, of which a process commonly has 1024.
const MOST: usize = 256;

/// Kept files, by store path.
#[derive(Debug, Default)]
pub struct Kept {
    files: Mutex<HashMap<String, Arc<File>>>,
}

impl Kept {
    /// The file of a path, from its beginning.
    pub fn get(&self, path: &str) -> Option<KeptFile> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.get(path).map(|file| KeptFile { file: Arc::clone(file), offset: 0 })
    }

    /// A copy of `file` that is made while it is read, if there is room for one more.
    pub fn copying<'a>(&self, file: &'a mut dyn Read) -> Copying<'a> {
        let full = self.files.lock().unwrap_or_else(PoisonError::into_inner).len() >= MOST;
        let copy = if full { None } else { tempfile::tempfile_in(directory()).ok() };
        Copying { file, copy }
    }

    /// Keeps a copy that is whole.
    pub fn keep(&self, path: &str, copy: Copying<'_>) {
        if let Some(file) = copy.copy {
            let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
            files.insert(path.to_owned(), Arc::new(file));
        }
    }
}

/// Where large temporary files belong (file-hierarchy(7)).
pub(crate) fn directory() -> PathBuf {
    match std::env::var_os("TMPDIR") {
        None if Path::new("/var/tmp").is_dir() => "/var/tmp".into(),
        _ => std::env::temp_dir(),
    }
}

/// A kept file that is read.
#[derive(Debug)]
pub struct KeptFile {
    file: Arc<File>,
    offset: u64,
}

impl Read for KeptFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Copies what is read through it, as long as the disk has room.
pub struct Copying<'a> {
    file: &'a mut dyn Read,
    copy: Option<File>,
}

impl Read for Copying<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if let Some(copy) = &mut self.copy
            && copy.write_all(&buffer[..read]).is_err()
        {
            self.copy = None;
        }
        Ok(read)
    }
}
