//! Reads the files, line by line.

use super::keywords::{Meaning, meaning};
use super::settings::Settings;
use super::tokens::{local_user, tilde};
use super::{Asked, ConfigError, Files, Place, Sources, words};
use crate::ssh::pattern;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files that include each other, at most; OpenSSH's bound.
const DEPTH: usize = 16;
/// Longest file.
const LONGEST: u64 = 1 << 20;

pub(super) fn settings(sources: &Sources, asked: &Asked<'_>) -> Result<Settings, ConfigError> {
    let mut reader = Reader {
        asked,
        settings: Settings {
            user: asked.user.map(str::to_owned),
            port: asked.port,
            ..Settings::default()
        },
        host: asked.host.to_owned(),
        last_pass: false,
        last_pass_wanted: false,
    };
    for option in &sources.options {
        reader.option(option)?;
    }
    reader.files(&sources.files)?;
    reader.resolve_host_name()?;
    if reader.last_pass_wanted {
        // `Match final`: once more, by the name that is connected to.
        reader.last_pass = true;
        reader.host = reader.settings.host_name.clone().unwrap_or(reader.host);
        reader.files(&sources.files)?;
    }
    Ok(reader.settings)
}

struct Reader<'a> {
    asked: &'a Asked<'a>,
    settings: Settings,
    /// What `Host` is compared with.
    host: String,
    last_pass: bool,
    last_pass_wanted: bool,
}

/// A file being read.
struct Current {
    path: PathBuf,
    line: usize,
    depth: usize,
    /// Relative paths of `Include` are below this.
    base: PathBuf,
}

impl Current {
    fn fail(&self, why: impl Into<String>) -> ConfigError {
        ConfigError::Line { place: Place::Line(self.path.clone(), self.line), why: why.into() }
    }
}

impl Reader<'_> {
    fn option(&mut self, text: &str) -> Result<(), ConfigError> {
        let fail = |why: String| ConfigError::Line { place: Place::Option(text.to_owned()), why };
        let (keyword, rest) = words::keyword(text).ok_or_else(|| fail("it is empty".into()))?;
        if keyword == "stricthostkeychecking" {
            return match rest.to_ascii_lowercase().as_str() {
                "yes" | "true" | "ask" => Ok(()),
                _ => Err(fail(
                    "host keys are always checked: give the machine's with --host-key".into(),
                )),
            };
        }
        match meaning(&keyword) {
            Meaning::Used => self.settings.take(&keyword, rest, true).map_err(fail),
            Meaning::Refused(unasked) if is_one_of(rest, unasked) => Ok(()),
            Meaning::Refused(_) | Meaning::Irrelevant => {
                Err(fail(format!("keystone does nothing by the SSH option {keyword}")))
            }
            Meaning::Unknown => Err(fail(format!("there is no SSH option {keyword}"))),
        }
    }

    fn files(&mut self, files: &Files) -> Result<(), ConfigError> {
        let ssh = std::env::home_dir().map(|home| home.join(".ssh"));
        let below_home = || ssh.clone().unwrap_or_else(|| "/".into());
        match files {
            Files::None => Ok(()),
            Files::Only(path) => {
                let text = read(path, false)?.ok_or_else(|| ConfigError::Read {
                    file: path.clone(),
                    source: io::ErrorKind::NotFound.into(),
                })?;
                self.file(path, &text, 0, true, &below_home())
            }
            Files::Usual => {
                if let Some(ssh) = &ssh {
                    let path = ssh.join("config");
                    if let Some(text) = read(&path, true)? {
                        self.file(&path, &text, 0, true, ssh)?;
                    }
                }
                let path = Path::new("/etc/ssh/ssh_config");
                match read(path, false)? {
                    Some(text) => self.file(path, &text, 0, true, Path::new("/etc/ssh")),
                    None => Ok(()),
                }
            }
        }
    }

    fn file(
        &mut self,
        path: &Path,
        text: &str,
        depth: usize,
        enabled: bool,
        base: &Path,
    ) -> Result<(), ConfigError> {
        let mut at = Current { path: path.to_owned(), line: 0, depth, base: base.to_owned() };
        let mut active = enabled;
        for (number, line) in text.lines().enumerate() {
            at.line = number + 1;
            let Some((keyword, rest)) = words::keyword(line) else { continue };
            match keyword.as_str() {
                "host" => {
                    let patterns = words::split(rest).map_err(|why| at.fail(why))?;
                    if patterns.is_empty() {
                        return Err(at.fail("Host has no pattern"));
                    }
                    active =
                        enabled && pattern::any(patterns.iter().map(String::as_str), &self.host);
                }
                "match" => {
                    let matched = self.matches(rest, enabled).map_err(|why| at.fail(why))?;
                    active = enabled && matched;
                }
                "include" => self.include(rest, &at, active)?,
                _ => self.line(&keyword, rest, &at, active)?,
            }
        }
        Ok(())
    }

    fn line(
        &mut self,
        keyword: &str,
        rest: &str,
        at: &Current,
        active: bool,
    ) -> Result<(), ConfigError> {
        match meaning(keyword) {
            Meaning::Used => self
                .settings
                .take(keyword, rest, active)
                .map_err(|why| at.fail(format!("{keyword}: {why}"))),
            Meaning::Irrelevant => Ok(()),
            Meaning::Refused(unasked) if !active || is_one_of(rest, unasked) => Ok(()),
            Meaning::Refused(_) => Err(at.fail(format!(
                "keystone does not do what {keyword} asks for; leave it out for this host, or \
                 give another file with --ssh-config (none for none)"
            ))),
            Meaning::Unknown => {
                let ignored = self.settings.ignore_unknown.as_deref().is_some_and(|patterns| {
                    pattern::any(patterns.to_ascii_lowercase().split(','), keyword)
                });
                match ignored {
                    true => Ok(()),
                    false => Err(at.fail(format!(
                        "there is no SSH option {keyword} (IgnoreUnknown {keyword} passes over it)"
                    ))),
                }
            }
        }
    }

    fn include(&mut self, rest: &str, at: &Current, active: bool) -> Result<(), ConfigError> {
        let patterns = words::split(rest).map_err(|why| at.fail(why))?;
        if patterns.is_empty() {
            return Err(at.fail("Include has no file"));
        }
        if at.depth >= DEPTH {
            return Err(at.fail(format!("files include each other more than {DEPTH} deep")));
        }
        for pattern in patterns {
            let pattern = tilde(&pattern).map_err(|why| at.fail(why))?;
            let pattern = at.base.join(pattern);
            let found = glob::glob(&pattern.to_string_lossy())
                .map_err(|error| at.fail(format!("'{}': {error}", pattern.display())))?;
            for path in found.flatten() {
                let Some(text) = read(&path, false)? else { continue };
                self.file(&path, &text, at.depth + 1, active, &at.base)?;
            }
        }
        Ok(())
    }

    /// Whether a `Match` line holds; only as far as needed is it asked.
    fn matches(&mut self, rest: &str, enabled: bool) -> Result<bool, String> {
        let words = words::split(rest)?;
        let mut words = words.iter().flat_map(|word| {
            // `host=a` is `host a`.
            let (first, second) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word.as_str(), None),
            };
            std::iter::once(first).chain(second)
        });
        let mut holds = enabled;
        let (mut criteria, mut after_pass) = (0, false);
        while let Some(word) = words.next() {
            criteria += 1;
            let (negated, name) = match word.strip_prefix('!') {
                Some(name) => (true, name.to_ascii_lowercase()),
                None => (false, word.to_ascii_lowercase()),
            };
            let found = match name.as_str() {
                "all" => match criteria == 1 || (criteria == 2 && after_pass) {
                    true if words.next().is_none() && !negated => true,
                    _ => return Err("Match all stands alone, or after final".into()),
                },
                "final" | "canonical" => {
                    self.last_pass_wanted |= name == "final";
                    after_pass = true;
                    self.last_pass
                }
                _ => {
                    let value = words.next().ok_or_else(|| format!("Match {name} has no value"))?;
                    // What is not asked can't be refused either.
                    holds && self.criterion(&name, value)?
                }
            };
            holds &= found != negated;
        }
        match criteria {
            0 => Err("Match has no criterion".into()),
            _ => Ok(holds),
        }
    }

    fn criterion(&self, name: &str, value: &str) -> Result<bool, String> {
        let text = match name {
            "host" => self.host_name()?,
            "originalhost" => self.asked.host.to_owned(),
            "user" => {
                self.settings.user.clone().unwrap_or_else(|| self.asked.default_user.to_owned())
            }
            "localuser" => local_user(),
            "exec" | "localnetwork" | "tagged" | "command" | "sessiontype" | "version" => {
                return Err(format!(
                    "keystone does not judge Match {name}; write the hosts out with Host, or give \
                     another file with --ssh-config (none for none)"
                ));
            }
            _ => return Err(format!("there is no criterion {name} for Match")),
        };
        // Host names' patterns are made lower case here, but not those of `Host`.
        let value = match name {
            "host" | "originalhost" => value.to_lowercase(),
            _ => value.to_owned(),
        };
        Ok(pattern::any(value.split(','), &text))
    }

    /// The name that is connected to, as far as it is known by now.
    fn host_name(&self) -> Result<String, String> {
        let Some(name) = &self.settings.host_name else { return Ok(self.host.clone()) };
        if self.last_pass {
            return Ok(name.clone());
        }
        let mut out = String::new();
        let mut chars = name.chars();
        while let Some(c) = chars.next() {
            match (c, c == '%') {
                (_, false) => out.push(c),
                (_, true) => match chars.next() {
                    Some('%') => out.push('%'),
                    Some('h') => out.push_str(self.asked.host),
                    // The zone of an address: OpenSSH leaves none but %h and %% in HostName.
                    _ => return Err(format!("HostName {name}: only %h and %% are replaced in it")),
                },
            }
        }
        Ok(out)
    }

    fn resolve_host_name(&mut self) -> Result<(), ConfigError> {
        let name = self
            .host_name()
            .map_err(|why| ConfigError::Setting { host: self.asked.host.to_owned(), why })?;
        self.settings.host_name = Some(name);
        Ok(())
    }
}

fn is_one_of(rest: &str, values: &[&str]) -> bool {
    let value = rest.trim_matches('"');
    values.iter().any(|known| value.eq_ignore_ascii_case(known))
}

/// The text of a file; `None` if there is none. The user's own must be nobody else's to write.
fn read(path: &Path, own: bool) -> Result<Option<String>, ConfigError> {
    let fail = |source| ConfigError::Read { file: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fail(e)),
    };
    let meta = file.metadata().map_err(fail)?;
    if meta.is_dir() {
        return Err(fail(io::ErrorKind::IsADirectory.into()));
    }
    let owners = [0, nix::unistd::getuid().as_raw()];
    if own && (!owners.contains(&meta.uid()) || meta.mode() & 0o022 != 0) {
        return Err(ConfigError::Writable { file: path.to_owned() });
    }
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).map_err(fail)?;
    if text.len() as u64 > LONGEST {
        return Err(fail(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}
