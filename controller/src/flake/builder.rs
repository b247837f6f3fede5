//! The machine as the place where a flake's system is built.
//!
//! Evaluation is the operator's; derivations and sources go to the machine's store, are built there,
//! and what comes of it comes back into a binary cache in a directory of this computer: no store of
//! this computer has to trust the machine, nor the operator.

use super::relay::{self, Relay};
use super::{Flake, NixError, NixOptions, command};
use crate::operator::Operator;
use crate::ssh::said::{kib, pairs};
use crate::ssh::{Session, SshError};
use crate::stop::Stop;
use crate::ui::format::bytes;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Bound of asking the machine what it has.
const BOUND: Duration = Duration::from_secs(60);
/// With less than this free, building a system is likely to fail, in bytes.
const LITTLE_ROOM: u64 = 4 << 30;
const LITTLE_MEMORY: u64 = 2 << 30;

/// Says what there is to build with, a `key=value` a line; for POSIX sh. A session that is no login
/// does not have Nix's directories in its PATH everywhere.
const SCRIPT: &str = r#"say() { printf '%s=%s\n' "$1" "$2"; }
PATH=$PATH:/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:$HOME/.nix-profile/bin
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
say kernel "$(uname -s)"
say machine "$(uname -m)"
d=$(command -v nix-daemon) || exit 0
say daemon "$d"
say version "$("$d" --version 2>/dev/null | head -n 1)"
[ -d /nix/store ] && s=/nix/store || s=/
set -- $(df -Pk "$s" 2>/dev/null | tail -n 1)
say room "$4"
grep -q -e ' /nix/\.rw-store tmpfs ' -e ' / tmpfs ' /proc/mounts 2>/dev/null && say ram yes
while read -r k v _; do
  case $k in MemAvailable:) say memory "$v" ;; esac
done 2>/dev/null </proc/meminfo
say processors "$(nproc 2>/dev/null)"
exit 0"#;

/// What a machine has to build with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Means {
    /// `uname -s`.
    pub kernel: String,
    /// `uname -m`.
    pub machine: String,
    /// Where `nix-daemon` is; empty if it is not.
    pub daemon: String,
    /// What that calls itself.
    pub version: String,
    /// Free room for its store, in bytes.
    pub room: Option<u64>,
    /// Whether its store is in memory, as that of an installer is.
    pub in_memory: bool,
    /// Free memory, in bytes.
    pub memory: Option<u64>,
    /// Number of processors; empty if not known.
    pub processors: String,
}

impl Means {
    /// From what the script printed; what it did not say stays empty.
    fn parse(text: &str) -> Self {
        let mut means = Means::default();
        for (key, value) in pairs(text) {
            match key {
                "kernel" => means.kernel = value,
                "machine" => means.machine = value,
                "daemon" => means.daemon = value,
                "version" => means.version = value,
                "room" => means.room = kib(&value),
                "ram" => means.in_memory = value == "yes",
                "memory" => means.memory = kib(&value),
                "processors" => means.processors = value,
                _ => {}
            }
        }
        means
    }

    /// Why nothing can be built there, a sentence.
    fn refusal(&self, host: &str) -> Option<String> {
        if self.kernel != "Linux" {
            return Some(format!(
                "--build-on remote: {host} runs {}, not Linux; boot it from a NixOS installer",
                self.kernel
            ));
        }
        if self.daemon.is_empty() {
            return Some(format!(
                "--build-on remote: {host} has no nix-daemon, neither in PATH nor where Nix puts it, \
                 so nothing can be built there. Boot it from a NixOS installer (an ISO, or --kexec \
                 IMAGE), or leave --build-on out and build here"
            ));
        }
        if !relay::is_plain(Path::new(&self.daemon)) {
            return Some(format!(
                "--build-on remote: nix-daemon of {host} is at {}, which can't be called",
                self.daemon
            ));
        }
        None
    }

    /// What there is, a sentence or two.
    fn words(&self, host: &str) -> String {
        let size = |n: Option<u64>| n.map_or("an unknown amount".to_owned(), bytes);
        let mut text = format!("the system is built on {host}: {}", self.machine);
        if !self.processors.is_empty() {
            text += &format!(", processors: {}", self.processors);
        }
        let held = if self.in_memory { " (in memory)" } else { "" };
        text += &format!(", {} of memory free", size(self.memory));
        text += &format!(", {} free for its store{held}", size(self.room));
        if !self.version.is_empty() {
            text += &format!(", {}", self.version);
        }
        let few = |n: Option<u64>, least| n.is_some_and(|n| n < least);
        if few(self.room, LITTLE_ROOM) || few(self.memory, LITTLE_MEMORY) {
            text += ". That is little: a system and what it is built with often take more; if it \
                     does not do, leave --build-on out and build here";
        }
        text
    }
}

/// A machine that can build, and the way to its Nix.
#[derive(Debug)]
pub struct Builder {
    relay: Relay,
    means: Means,
    at: String,
}

/// It can't.
#[derive(Debug)]
pub enum NoBuilder {
    /// Why, a sentence.
    Unfit(String),
    /// It could not be asked.
    Ssh(SshError),
    /// Nothing can be listened to here.
    Nix(NixError),
}

/// A system that was built on a machine.
#[derive(Debug)]
pub struct BuiltThere {
    /// Its store path.
    pub toplevel: PathBuf,
    /// A binary cache with its closure, removed when this is dropped.
    pub cache: TempDir,
}

impl BuiltThere {
    /// The binary cache's address.
    pub fn address(&self) -> String {
        format!("file://{}", self.cache.path().display())
    }
}

impl Builder {
    /// Looks at what the machine has. `session` is whose programs build: root's.
    ///
    /// # Errors
    /// [`NoBuilder`].
    pub async fn on(session: &Session) -> Result<Self, NoBuilder> {
        let asking = session.script("looking for Nix", SCRIPT, BOUND);
        let said = asking.await.map_err(NoBuilder::Ssh)?;
        let means = Means::parse(&String::from_utf8_lossy(&said));
        if let Some(why) = means.refusal(&session.destination().host) {
            return Err(NoBuilder::Unfit(why));
        }
        let relay = Relay::open(session, &format!("{} --stdio", means.daemon));
        let relay = relay.map_err(|source| NoBuilder::Nix(NixError::Place { source }))?;
        Ok(Builder { relay, means, at: session.destination().to_string() })
    }

    /// What there is to build with, a sentence or two.
    pub fn words(&self) -> String {
        self.means.words(&self.at)
    }

    /// Builds the system there, and has its closure come here.
    ///
    /// # Errors
    /// [`NixError`].
    pub async fn toplevel(
        &self,
        flake: &Flake,
        options: &NixOptions,
        operator: &mut impl Operator,
        stop: &Stop,
    ) -> Result<BuiltThere, NixError> {
        let mut options = options.clone();
        // With its parameters, without them, or without a name, as the version has it.
        let store = format!("ssh-ng://{}", self.at);
        let called = [self.relay.url(), relay::CALLED].map(str::to_owned);
        options.renamed = called.map(|called| (called, store.clone())).to_vec();
        options.renamed.push(("'ssh-ng://'".to_owned(), format!("'{store}'")));
        let what = flake.installable("system.build.toplevel");
        let doing = format!("building {what} on {}", self.at);
        let store = ["--eval-store", "auto", "--store", self.relay.url()];
        let args = [&["build", "--no-link", "--json"][..], &store, &[&what]].concat();
        let said = command::nix(&doing, &args, &options, operator, stop).await;
        let said = said.map_err(|error| self.with_words_of_the_machine(error))?;
        let toplevel = super::out(&doing, &said)?;

        let cache = cache_here().map_err(|source| NixError::Place { source })?;
        let to = format!("file://{}?compression=none", cache.path().display());
        let path = toplevel.display().to_string();
        let doing = format!("taking {path} from {}", self.at);
        // The machine is the one that built it: there is nobody else who could have signed.
        let args = ["copy", "--no-check-sigs", "--from", self.relay.url(), "--to", &to, &path];
        let copied = command::nix(&doing, &args, &options, operator, stop).await;
        copied.map_err(|error| self.with_words_of_the_machine(error))?;
        Ok(BuiltThere { toplevel, cache })
    }

    /// With what the machine's program said, where `nix` only says that it is gone.
    fn with_words_of_the_machine(&self, error: NixError) -> NixError {
        match error {
            NixError::Failed { doing, mut said } => {
                said.extend(self.relay.said());
                NixError::Failed { doing, said }
            }
            other => other,
        }
    }
}

/// A directory for gigabytes that can stand in a URL.
fn cache_here() -> std::io::Result<TempDir> {
    let usual = crate::closure::cache::kept::directory();
    let place = if relay::is_plain(&usual) { usual } else { "/tmp".into() };
    tempfile::Builder::new().prefix("keystone-built-").tempdir_in(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(text: &str) -> Means {
        Means::parse(text)
    }

    const INSTALLER: &str = "kernel=Linux\nmachine=x86_64\ndaemon=/run/current-system/sw/bin/nix-daemon\n\
        version=nix-daemon (Nix) 2.28.4\nroom=1048576\nram=yes\nmemory=8388608\nprocessors=4\n";

    #[test]
    fn what_there_is_and_what_is_little() {
        let small = means(INSTALLER);
        assert_eq!(small.refusal("nas"), None);
        let words = small.words("root@nas");
        let wanted = "the system is built on root@nas: x86_64, processors: 4, 8.0 GiB of memory free, \
                      1.0 GiB free for its store (in memory), nix-daemon (Nix) 2.28.4. That is little";
        assert!(words.starts_with(wanted), "{words}");
        let large = means(&INSTALLER.replace("1048576", "104857600"));
        assert!(large.words("x").ends_with("2.28.4"), "{}", large.words("x"));
        let unknown = means("kernel=Linux\ndaemon=/bin/nix-daemon\nroom=\n");
        assert!(
            unknown.words("x").contains("an unknown amount free for"),
            "{}",
            unknown.words("x")
        );
    }

    #[test]
    fn who_can_not_build_is_told_why() {
        let refused = |text: &str| means(text).refusal("nas").unwrap();
        assert!(refused("kernel=Darwin\n").contains("runs Darwin"));
        let why = refused("kernel=Linux\nmachine=x86_64\n");
        assert!(why.contains("nas has no nix-daemon") && why.contains("--kexec"), "{why}");
        assert!(refused("kernel=Linux\ndaemon=nix-daemon () { ...\n").contains("can't be called"));
    }

    /// By a shell of this machine.
    #[test]
    fn the_script_says_what_is_here() {
        let out = std::process::Command::new("/bin/sh").args(["-c", SCRIPT]).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
        let found = means(&String::from_utf8(out.stdout).unwrap());
        assert_eq!(found.kernel, "Linux");
        assert!(found.daemon.ends_with("/nix-daemon"), "apt-get install nix-bin: {found:?}");
        assert!(found.version.contains("Nix"), "{found:?}");
        assert!(found.room.is_some() && found.memory.is_some(), "{found:?}");
    }
}
