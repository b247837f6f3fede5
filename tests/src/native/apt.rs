//! Fetching Debian packages from the machine's own mirror, for suites the
//! machine does not itself use, without touching its configuration.
//!
//! apt gets a directory of its own for sources, lists and cache. The mirror is
//! the first Debian archive found in the machine's sources (deb822 `.sources`
//! or one-line `.list`), the signatures are checked against
//! debian-archive-keyring as always.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One line of sources: what to fetch from which suite.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// `deb` or `deb-src`.
    pub(super) kind: &'static str,
    /// Such as `trixie`.
    pub(super) suite: &'static str,
    /// Such as `main contrib`.
    pub(super) components: &'static str,
}

/// A private apt.
#[derive(Debug)]
pub(super) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Writes the configuration to `dir` and downloads the package lists.
    pub(super) fn update(dir: &Path, sources: &[Source]) -> Result<Apt> {
        let mirror = machine_mirror()?;
        for sub in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        let text: String = sources
            .iter()
            .map(|s| {
                format!(
                    "Types: {}\nURIs: {mirror}\nSuites: {}\nComponents: {}\nSigned-By: {KEYRING}\n\n",
                    s.kind, s.suite, s.components
                )
            })
            .collect();
        fs::write(dir.join("lab.sources"), text)?;
        fs::write(dir.join("status"), "")?;
        let apt = Apt { dir: dir.to_owned() };
        apt.run(dir, &["update"])?;
        Ok(apt)
    }

    /// Downloads a source package into `into` and returns the `.dsc`.
    pub(super) fn source(&self, package: &str, into: &Path) -> Result<PathBuf> {
        fs::create_dir_all(into)?;
        self.run(into, &["source", "--download-only", package])?;
        single(into, ".dsc")
    }

    /// Downloads a binary package into `into` and returns the `.deb`.
    pub(super) fn binary(&self, package: &str, into: &Path) -> Result<PathBuf> {
        fs::create_dir_all(into)?;
        self.run(into, &["download", package])?;
        single(into, ".deb")
    }

    fn run(&self, cwd: &Path, args: &[&str]) -> Result<()> {
        let dir = self.dir.display();
        let out = Command::new("apt-get")
            .current_dir(cwd)
            .arg("-q")
            .args(["-o", &format!("Dir::Etc::sourcelist={dir}/lab.sources")])
            .args(["-o", "Dir::Etc::sourceparts=-"])
            .args(["-o", &format!("Dir::State={dir}")])
            .args(["-o", &format!("Dir::State::status={dir}/status")])
            .args(["-o", &format!("Dir::State::Lists={dir}/lists")])
            .args(["-o", &format!("Dir::Cache={dir}/cache")])
            // The directory is ours alone, so there is nobody to drop privileges to.
            .args(["-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"])
            // Hooks of desktop software centres do not concern private lists.
            .args(["-o", "APT::Update::Post-Invoke-Success=", "-o", "APT::Update::Error-Mode=any"])
            .args(args)
            .output()
            .context("running apt-get")?;
        ensure!(
            out.status.success(),
            "apt-get {} ended with {}:\n{}{}",
            args.join(" "),
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(())
    }
}

fn single(dir: &Path, suffix: &str) -> Result<PathBuf> {
    fs::read_dir(dir)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .find(|p| p.to_string_lossy().ends_with(suffix))
        .with_context(|| format!("apt-get left no *{suffix} in {}", dir.display()))
}

/// The Debian mirror that this machine's own apt uses.
pub(crate) fn machine_mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.filter_map(|e| e.ok().map(|e| e.path())));
    }
    files.sort();
    for file in &files {
        let Ok(text) = fs::read_to_string(file) else { continue };
        let found = match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => mirror_deb822(&text),
            Some("list") => mirror_one_line(&text),
            _ => None,
        };
        if let Some(mirror) = found {
            return Ok(mirror);
        }
    }
    bail!("found no Debian archive in /etc/apt/sources.list or /etc/apt/sources.list.d")
}

/// A Debian release's main archive: `main` of a suite that is neither security
/// nor updates (those live on other paths of the same mirror, sometimes).
fn is_archive(suites: &[&str], components: &[&str]) -> bool {
    const RELEASES: [&str; 8] =
        ["bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable", "oldstable"];
    components.contains(&"main") && suites.iter().any(|s| RELEASES.contains(s))
}

fn mirror_deb822(text: &str) -> Option<String> {
    let text: String =
        text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect();
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| -> Vec<&str> {
            let mut words = Vec::new();
            let mut inside = false;
            for line in stanza.lines() {
                if line.starts_with([' ', '\t']) {
                    if inside {
                        words.extend(line.split_whitespace());
                    }
                } else if let Some((key, value)) = line.split_once(':') {
                    inside = key.eq_ignore_ascii_case(name);
                    if inside {
                        words.extend(value.split_whitespace());
                    }
                }
            }
            words
        };
        let enabled = !field("Enabled").first().is_some_and(|v| v.eq_ignore_ascii_case("no"));
        (enabled
            && field("Types").contains(&"deb")
            && is_archive(&field("Suites"), &field("Components")))
        .then(|| field("URIs").first().map(ToString::to_string))
        .flatten()
    })
}

fn mirror_one_line(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let rest = rest.split('#').next()?;
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        is_archive(&[suite], &words.collect::<Vec<_>>()).then(|| uri.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deb822_takes_the_archive_and_not_security() {
        let text = "Types: deb\nURIs: http://mirror.test/security\nSuites: bookworm-security\nComponents: main\n\n\
                    Types: deb\n# a comment inside\nURIs: http://mirror.test/debian\nSuites: bookworm\n bookworm-updates\n\
                    Components: main contrib\n";
        assert_eq!(mirror_deb822(text).as_deref(), Some("http://mirror.test/debian"));
        assert_eq!(
            mirror_deb822(&format!("Enabled: no\n{}", text.split_once("\n\n").unwrap().1)),
            None
        );
        assert_eq!(
            mirror_deb822("Types: deb\nURIs: http://x.test\nSuites: nodistro\nComponents: main\n"),
            None
        );
    }

    #[test]
    fn one_line_skips_options_and_other_archives() {
        let text = "# deb http://old.test/debian bookworm main\ndeb http://x.test/ app main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm main # note\n";
        assert_eq!(mirror_one_line(text).as_deref(), Some("http://mirror.test/debian"));
    }
}
