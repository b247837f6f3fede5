//! Keys in files, of the machine being installed or of the operator.

use keystone_protocol::plan::KeyFile;
use keystone_protocol::secret::Secret;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use zeroize::Zeroizing;

/// The longest key, as compiled into cryptsetup (`DEFAULT_KEYFILE_SIZE_MAXKB`).
const LONGEST: u64 = 8 << 20;

/// Reads exactly the bytes that cryptsetup would take with `--keyfile-offset` and
/// `--keyfile-size`.
///
/// # Errors
/// The file can't be read, is shorter than offset and size ask for, is empty, or is longer than
/// 8 MiB.
pub fn read(key: &KeyFile) -> io::Result<Secret> {
    let mut file = File::open(&key.path)?;
    if key.offset > 0 {
        // A pipe can't be wound.
        if file.seek(SeekFrom::Start(key.offset)).is_err() {
            io::copy(&mut (&mut file).take(key.offset), &mut io::sink())?;
        }
    }
    part(file, key)
}

/// The same of a file whose contents are at hand.
///
/// # Errors
/// As for [`read`].
pub fn of(key: &KeyFile, contents: &Secret) -> io::Result<Secret> {
    let skip = usize::try_from(key.offset).unwrap_or(usize::MAX).min(contents.len());
    part(&contents.expose()[skip..], key)
}

/// The key in what begins at its offset.
fn part(file: impl Read, key: &KeyFile) -> io::Result<Secret> {
    let wanted = key.size.unwrap_or(LONGEST + 1);
    if wanted > LONGEST + 1 || key.size.is_some_and(|size| size > LONGEST) {
        return Err(io::Error::other("a key has at most 8 MiB"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(wanted.min(4096) as usize));
    file.take(wanted).read_to_end(&mut bytes)?;
    if key.size.is_some_and(|size| (bytes.len() as u64) < size) {
        let short =
            format!("it has only {} bytes from {} on, not {wanted}", bytes.len(), key.offset);
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, short));
    }
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other("a key has at most 8 MiB"));
    }
    let mut end = bytes.len();
    while key.trim_newline && end > 0 && bytes[end - 1] == b'\n' {
        end -= 1;
    }
    if end == 0 {
        return Err(io::Error::other("there is no key in it"));
    }
    Ok(Secret::new(bytes[..end].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(offset: u64, size: Option<u64>, trim_newline: bool) -> io::Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secretsecret\n\n").unwrap();
        let path = file.path().display().to_string();
        let key = KeyFile { path, trim_newline, offset, size };
        let given = super::of(&key, &Secret::new(b"secretsecret\n\n".to_vec()));
        let read = read(&key).map(|key| key.expose().to_vec());
        assert_eq!(given.map(|key| key.expose().to_vec()).ok(), read.as_ref().ok().cloned());
        read
    }

    #[test]
    fn a_part_of_a_file_is_the_key() {
        assert_eq!(of(0, None, false).unwrap(), b"secretsecret\n\n");
        assert_eq!(of(0, None, true).unwrap(), b"secretsecret");
        assert_eq!(of(2, Some(8), false).unwrap(), b"cretsecr");
        assert_eq!(of(13, None, false).unwrap(), b"\n");
    }

    #[test]
    fn what_is_not_there_is_no_key() {
        for (offset, size) in [(14, None), (2, Some(13)), (0, Some(9 << 20)), (99, None)] {
            assert!(of(offset, size, false).is_err(), "{offset} {size:?}");
        }
        assert!(of(12, None, true).is_err());
    }
}
