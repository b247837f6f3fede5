//! The image: where it is, how it is compressed, and what is in it.
//!
//! It is fetched and decompressed here: the machine needs no network of its own and no programs for
//! that. It is read through once before anything is sent, so that a damaged or wrong one is found
//! out before the machine notices anything.

use super::command::RUN;
use bytes::Bytes;
use keystone_fetch::{Decoder, FetchError, Http, decode, shown};
use keystone_protocol::fetch::Compression;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::str::FromStr;
use tar::{Archive, EntryType};
use thiserror::Error;

/// Bytes that are sent at once.
const PIECE: usize = 256 << 10;
/// What a file of an archive takes besides its contents, in bytes: its header and padding.
const BLOCK: u64 = 512;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    place: Place,
    compression: Compression,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    /// The address up to the last slash of its path, and what follows.
    Web(String, String),
}

/// The image can't be used.
#[derive(Debug, Error)]
pub enum TarballError {
    /// It can't be fetched.
    #[error("the image can't be fetched")]
    Fetch(#[source] FetchError),
    /// The server has none.
    #[error("the server has no image at {0}")]
    NotThere(String),
    /// It can't be read.
    #[error("the image {image} can't be read")]
    Read {
        /// Which.
        image: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is another one.
    #[error("{image} is not the image that was asked for: its SHA-256 is {found}, not {expected}")]
    Differs {
        /// Which.
        image: String,
        /// What was given, in hexadecimal digits.
        expected: String,
        /// What was found.
        found: String,
    },
    /// It can't be used.
    #[error("{image} is no kexec image: {why}")]
    Contents {
        /// Which.
        image: String,
        /// A phrase.
        why: String,
    },
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = match text.split_once("://") {
            None => Place::File(text.into()),
            Some(("file", path)) if path.starts_with('/') => Place::File(path.into()),
            Some(("http" | "https", rest)) => {
                let path_ends = text.find(['?', '#']).unwrap_or(text.len());
                let (base, _) = text[..path_ends].rsplit_once('/').unwrap_or_default();
                let name = text[base.len()..].trim_start_matches('/');
                if !rest.contains('/') || name.is_empty() {
                    return Err(format!("{text} names no file of a server"));
                }
                Place::Web(base.to_owned(), name.split('#').next().unwrap_or_default().to_owned())
            }
            Some((scheme, _)) => {
                return Err(format!(
                    "{scheme}:// is not fetched: give a file, or a file://, http:// or https:// address"
                ));
            }
        };
        let name = match &place {
            Place::File(path) => path.to_string_lossy().into_owned(),
            Place::Web(_, name) => name.split('?').next().unwrap_or_default().to_owned(),
        };
        let compression = compression(&name)
            .ok_or_else(|| format!("{text} is no .tar, .tar.gz, .tar.xz or .tar.zst"))?;
        Ok(Source { place, compression })
    }
}

/// By the name's end.
fn compression(name: &str) -> Option<Compression> {
    [
        (".tar", Compression::None),
        (".tar.gz", Compression::Gzip),
        (".tgz", Compression::Gzip),
        (".tar.xz", Compression::Xz),
        (".tar.zst", Compression::Zstd),
    ]
    .into_iter()
    .find_map(|(end, compression)| name.ends_with(end).then_some(compression))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File(path) => path.display().fmt(f),
            Place::Web(base, name) => f.write_str(&shown(&format!("{base}/{name}"))),
        }
    }
}

/// A SHA-256 as people have it: 64 hexadecimal digits, `sha256:` before them or not.
///
/// # Errors
/// It is none.
pub fn sha256(text: &str) -> Result<[u8; 32], String> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let mut sum = [0; 32];
    hex::decode_to_slice(digits, &mut sum)
        .map_err(|_| "a SHA-256 has 64 hexadecimal digits (sha256sum FILE prints it)".to_owned())?;
    Ok(sum)
}

impl Source {
    /// Whether anybody on the way can change it.
    pub fn is_in_the_clear(&self) -> bool {
        matches!(&self.place, Place::Web(base, _) if base.starts_with("http://"))
    }

    /// Whether it is a file that can be opened now; an address is not asked.
    ///
    /// # Errors
    /// It can't.
    pub fn check(&self) -> Result<(), TarballError> {
        match &self.place {
            Place::File(_) => self.open(None).map(drop),
            Place::Web(..) => Ok(()),
        }
    }

    /// Opens it; what a server has is fetched into a file without a name. With `sha256` it has to be
    /// that one, as it is before it is decompressed. Blocks.
    ///
    /// # Errors
    /// It is not there, can't be read, or is another one.
    pub fn open(&self, sha256: Option<[u8; 32]>) -> Result<Tarball, TarballError> {
        let image = self.to_string();
        let read = |source| TarballError::Read { image: image.clone(), source };
        let file = match &self.place {
            Place::File(path) => File::open(path).map_err(read)?,
            Place::Web(base, name) => {
                let http = Http::new(base).map_err(TarballError::Fetch)?;
                let body = http.open(name).map_err(TarballError::Fetch)?;
                let mut body = body.ok_or_else(|| TarballError::NotThere(image.clone()))?;
                let mut file = tempfile::tempfile().map_err(read)?;
                io::copy(&mut body, &mut file).map_err(read)?;
                file
            }
        };
        if let Some(expected) = sha256 {
            let mut sum = Sink(Sha256::new());
            (&file).rewind().and_then(|()| io::copy(&mut &file, &mut sum)).map_err(read)?;
            let found: [u8; 32] = sum.0.finalize().into();
            if found != expected {
                let [expected, found] = [expected, found].map(hex::encode);
                return Err(TarballError::Differs { image, expected, found });
            }
        }
        Ok(Tarball { file, compression: self.compression, image })
    }
}

/// An image that is here.
#[derive(Debug)]
pub struct Tarball {
    file: File,
    compression: Compression,
    image: String,
}

/// What is in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The archive's length, decompressed, in bytes.
    pub bytes: u64,
    /// Its files' lengths together, in bytes.
    pub room: u64,
    /// Its files by name, each with its SHA-256.
    pub files: Vec<(String, [u8; 32])>,
}

impl Tarball {
    /// The archive from its beginning, decompressed.
    fn reader(&self) -> io::Result<impl Read> {
        let mut file = &self.file;
        file.rewind()?;
        Decoder::new(self.compression, file, decode::AMPLE)
    }

    /// Reads it through.
    ///
    /// # Errors
    /// It can't be read, or is no image.
    pub fn contents(&self) -> Result<Contents, TarballError> {
        let read = |source| TarballError::Read { image: self.image.clone(), source };
        let wrong = |why: String| TarballError::Contents { image: self.image.clone(), why };
        let mut counted = Counted { from: self.reader().map_err(read)?, bytes: 0 };
        let mut contents = Contents { bytes: 0, room: 0, files: Vec::new() };
        let mut runs = false;
        let mut archive = Archive::new(&mut counted);
        for entry in archive.entries().map_err(read)? {
            let mut entry = entry.map_err(read)?;
            let name = name(&entry.path_bytes()).map_err(wrong)?;
            contents.room += BLOCK + entry.size();
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {}
                EntryType::Directory | EntryType::Symlink | EntryType::Link => continue,
                other => return Err(wrong(format!("{name} is no file (type {other:?})"))),
            }
            runs |= name == RUN && entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
            let mut sum = Sink(Sha256::new());
            io::copy(&mut entry, &mut sum).map_err(read)?;
            contents.files.push((name, sum.0.finalize().into()));
        }
        if !runs {
            return Err(wrong(format!("it has no program {RUN}")));
        }
        // What follows the archive's end belongs to the stream all the same.
        io::copy(&mut counted, &mut io::sink()).map_err(read)?;
        contents.bytes = counted.bytes;
        Ok(contents)
    }

    /// Gives the archive out in pieces, as long as `take` takes them. Blocks.
    ///
    /// # Errors
    /// It can't be read.
    pub fn pieces(&self, mut take: impl FnMut(Bytes) -> bool) -> io::Result<()> {
        let mut reader = self.reader()?;
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            (&mut reader).take(PIECE as u64).read_to_end(&mut piece)?;
            if piece.is_empty() || !take(piece.into()) {
                return Ok(());
            }
        }
    }
}

/// An entry's name, without a leading `./`.
fn name(bytes: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let text = text.trim_start_matches("./").to_owned();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-/@".contains(&b);
    if !text.bytes().all(plain) || text.starts_with('/') || text.split('/').any(|part| part == "..")
    {
        return Err(format!("{text:?} is no name for a file of one"));
    }
    Ok(text)
}

struct Counted<R> {
    from: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

struct Sink(Sha256);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    #[test]
    fn places_and_compressions() {
        let parse = |text: &str| text.parse::<Source>();
        let one = parse("https://h/d/nixos-kexec-x86_64-linux.tar.gz?raw=1").unwrap();
        assert_eq!(
            one.place,
            Place::Web("https://h/d".into(), "nixos-kexec-x86_64-linux.tar.gz?raw=1".into())
        );
        assert_eq!(one.to_string(), "https://h/d/nixos-kexec-x86_64-linux.tar.gz");
        let other = parse("http://me:secret@h:8080/k.tar").unwrap();
        assert_eq!(other.to_string(), "http://h:8080/k.tar");
        assert!(other.is_in_the_clear() && !parse("k.tar").unwrap().is_in_the_clear());
        assert_eq!(one.compression, Compression::Gzip);
        assert_eq!(parse("file:///srv/k.tar").unwrap().place, Place::File("/srv/k.tar".into()));
        assert_eq!(parse("k.tar.xz").unwrap().compression, Compression::Xz);
        assert_eq!(parse("k.tar.zst").unwrap().compression, Compression::Zstd);
        for bad in [
            "k.zip",
            "k",
            "ftp://h/k.tar",
            "https://h",
            "https://h/",
            "https://h/x?k.tar",
            "file://k.tar",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    fn packed(dir: &Path, name: &str, more: &[&str]) -> Result<Contents, TarballError> {
        let file = dir.join(name);
        let status =
            Command::new("tar").arg("-caf").arg(&file).arg("-C").arg(dir).args(more).status();
        assert!(status.unwrap().success());
        file.to_str().unwrap().parse::<Source>().unwrap().open(None)?.contents()
    }

    #[test]
    fn what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("kexec")).unwrap();
        let write =
            |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("kexec/initrd", &vec![7; 1_000_000]);
        write("kexec/run", b"#!/bin/sh\n");
        // What can't be run is no program.
        let error = packed(dir.path(), "a.tar", &["kexec"]).unwrap_err();
        assert!(error.to_string().contains("no program kexec/run"), "{error}");
        Command::new("chmod").arg("755").arg(dir.path().join("kexec/run")).status().unwrap();
        let plain = packed(dir.path(), "a.tar", &["kexec"]).unwrap();
        assert_eq!(plain.bytes, std::fs::metadata(dir.path().join("a.tar")).unwrap().len());
        let names: Vec<&str> = plain.files.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.len() == 2 && names.contains(&"kexec/run"), "{names:?}");
        for name in ["b.tar.gz", "b.tar.xz", "b.tar.zst", "b.tar"] {
            assert_eq!(
                packed(dir.path(), name, &["./kexec"]).unwrap().files,
                plain.files,
                "{name}"
            );
        }
        // Cut off, and not what the name says.
        let whole = std::fs::read(dir.path().join("b.tar.gz")).unwrap();
        for (name, bytes) in
            [("c.tar.gz", &whole[..whole.len() - 9]), ("c.tar.xz", &whole), ("c.tar", &whole)]
        {
            write(name, bytes);
            let source: Source = dir.path().join(name).to_str().unwrap().parse().unwrap();
            assert!(source.open(None).unwrap().contents().is_err(), "{name}");
        }
        assert!(
            packed(dir.path(), "d.tar", &["--transform", "s,kexec/initrd,x/a b,", "kexec"])
                .is_err()
        );
    }

    #[test]
    fn another_image_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.tar");
        std::fs::write(&file, "abc").unwrap();
        let source: Source = file.to_str().unwrap().parse().unwrap();
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(source.open(Some(sha256(abc).unwrap())).is_ok());
        assert!(source.open(Some(sha256(&format!("sha256:{abc}")).unwrap())).is_ok());
        let error = source.open(Some([1; 32])).unwrap_err().to_string();
        assert!(error.contains(abc) && error.contains(&"01".repeat(32)), "{error}");
        for bad in ["", "abc", &abc[1..], "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="] {
            assert!(sha256(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_is_given_out_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.tar");
        let bytes: Vec<u8> = (0..700_000u32).map(|n| n as u8).collect();
        std::fs::write(&file, &bytes).unwrap();
        let tarball = file.to_str().unwrap().parse::<Source>().unwrap().open(None).unwrap();
        for _ in 0..2 {
            let mut all = Vec::new();
            tarball
                .pieces(|piece| {
                    all.extend_from_slice(&piece);
                    true
                })
                .unwrap();
            assert!(all == bytes);
        }
    }
}
