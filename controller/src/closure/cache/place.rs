//! Where a cache is: a directory or a web server.

use super::CacheError;
use keystone_fetch::{FetchError, Http};
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

/// A place that has files by relative name.
#[derive(Debug)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// A web server, or a directory of it.
    Http(Http),
}

impl Place {
    /// `file:///DIRECTORY`, `http://…` or `https://…`; what follows a `?` are Nix's settings for
    /// writing, which say nothing to a reader.
    pub fn parse(address: &str) -> Result<Self, CacheError> {
        let bad = || CacheError::Address(address.to_owned());
        let plain = address.split('?').next().unwrap_or_default();
        if let Some(path) = plain.strip_prefix("file://") {
            return match path.starts_with('/') && path.len() > 1 {
                true => Ok(Place::Directory(path.into())),
                false => Err(bad()),
            };
        }
        let host = plain.strip_prefix("http://").or_else(|| plain.strip_prefix("https://"));
        match host {
            Some(host) if !host.is_empty() && !host.starts_with('/') => {
                Ok(Place::Http(Http::new(plain.trim_end_matches('/'))?))
            }
            _ => Err(bad()),
        }
    }

    /// Where a file is, to be shown.
    pub fn url(&self, name: &str) -> String {
        match self {
            Place::Directory(path) => format!("file://{}/{name}", path.display()),
            Place::Http(http) => http.url(name),
        }
    }

    /// The cache itself, to be shown.
    pub fn name(&self) -> String {
        self.url("").trim_end_matches('/').to_owned()
    }

    /// A small file; `None` if there is none.
    pub fn small(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, CacheError> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let read = |source| FetchError::Read { url: self.url(name), source };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > limit {
            return Err(CacheError::TooLong { url: self.url(name), limit });
        }
        Ok(Some(bytes))
    }

    /// A file, to be read; `None` if there is none.
    pub fn open(&self, name: &str) -> Result<Option<Box<dyn Read + Send + '_>>, CacheError> {
        match self {
            Place::Directory(path) => match File::open(path.join(name)) {
                Ok(file) => Ok(Some(Box::new(file))),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(FetchError::Read { url: self.url(name), source }.into()),
            },
            Place::Http(http) => match http.open(name)? {
                Some(body) => Ok(Some(Box::new(body))),
                None => Ok(None),
            },
        }
    }

    /// Whether a file read twice is transferred twice.
    pub fn is_far(&self) -> bool {
        matches!(self, Place::Http(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let name = |address| Place::parse(address).map(|place| place.name()).ok();
        assert_eq!(name("file:///srv/cache").as_deref(), Some("file:///srv/cache"));
        assert_eq!(
            name("file:///srv/cache?compression=zstd").as_deref(),
            Some("file:///srv/cache")
        );
        assert_eq!(name("http://host:8080/a/").as_deref(), Some("http://host:8080/a"));
        for bad in
            ["", "file://", "file://x", "file:///", "http://", "https:///x", "s3://b", "/srv"]
        {
            assert_eq!(name(bad), None, "{bad}");
        }
    }
}
