//! A fresh directory on the machine from which programs may run.

use super::local::{LocalAgent, NAME};
use super::transfer::FILE;
use super::{Trail, UploadError};
use crate::ssh::exec::{Answer, Exit, Output, Running};
use crate::ssh::{Session, SshError};
use rand::Rng;
use std::time::Duration;

/// Where a directory is tried, in order: memory first, then disks of the running system.
pub const CANDIDATES: &[&str] = &["/run", "/tmp", "/var/tmp", "/dev/shm", "/root"];
/// A file that says that the agent was started, so that whoever started it removes the directory.
const STARTED: &str = "started";

/// How long a directory stays whose agent is never started, in steps of [`GUARD_STEP`] s: longer
/// than sending the agent and reading it back may take.
const GUARD_STEPS: u32 = 140;
const GUARD_STEP: u32 = 5;

/// A function of POSIX sh, `tell FILE`, that says what a file is: by BLAKE2b, which takes the least
/// time, by SHA-256, or by all its bytes (see [`LocalAgent::is_told`]).
pub const TELL: &str = r#"tell() {
  if command -v b2sum >/dev/null; then printf 'b2 '; b2sum <"$1"
  elif command -v sha256sum >/dev/null; then printf 'sha256 '; sha256sum <"$1"
  else echo bytes; cat "$1"; fi
}"#;

/// Where a live system has the agent as part of itself, or a link to it. Nobody but root may alter it, or
/// what is in its directory: then it is trusted as the shell is that looks for it.
pub const INSTALLED: &str = "/usr/libexec/keystone/keystone-agent";

/// Of a login's own words in an error, characters.
const SAID: usize = 400;

/// What a directory was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing of use.
    Nothing,
    /// What the live system has as the agent, linked here and not compared. It says itself what it is
    /// when it is started.
    Installed,
    /// The agent, found on the machine, copied here and compared.
    Whole,
    /// The first so many bytes of what an earlier connection sent.
    Part(u64),
}

impl Found {
    /// Bytes that are there, of `whole`.
    pub fn bytes(self, whole: u64) -> u64 {
        match self {
            Found::Nothing => 0,
            Found::Installed | Found::Whole => whole,
            Found::Part(bytes) => bytes,
        }
    }
}

/// A directory of our own: made afresh, mode 0700, owned by root, on a file system that runs
/// programs. The machine removes it after a while if no agent is started in it.
#[derive(Debug)]
pub struct Place {
    dir: String,
    program: String,
    /// What is in it.
    pub found: Found,
    /// Where the agent is in it: a shell that runs the next line it is sent.
    pub shell: Option<Running>,
}

/// The directory will not do.
#[derive(Debug)]
pub enum NotHere {
    /// Why; another may.
    Unfit(String),
    /// No other will either: the machine can't run the agent, or nothing was found out.
    Nowhere(UploadError),
}

impl From<UploadError> for NotHere {
    fn from(error: UploadError) -> Self {
        NotHere::Nowhere(error)
    }
}

/// Refuses machines on which the agent can't run, by what `uname -s` and `uname -m` say.
fn check_machine(kernel: &str, machine: &str, agent: &LocalAgent) -> Result<(), UploadError> {
    if kernel != "Linux" {
        return Err(UploadError::NotLinux { found: kernel.to_owned() });
    }
    if machine != agent.machine {
        let (machine, agent) = (machine.to_owned(), agent.machine.to_owned());
        return Err(UploadError::OtherMachine { machine, agent });
    }
    Ok(())
}

impl Place {
    /// Looks whether the machine can run the agent, makes a directory in `parent`, and takes an agent
    /// that the machine already has: the live system's own, or else, after trying whether programs run
    /// there, a copy of what an earlier connection left, also of one that broke while it was sent. The
    /// directory that `trail` leads to goes.
    pub async fn make(
        session: &Session,
        parent: &str,
        agent: &LocalAgent,
        trail: &Trail,
    ) -> Result<Self, NotHere> {
        let random: [u8; 8] = rand::rng().random();
        let dir = format!("{parent}/{NAME}.{}", hex::encode(random));
        let program = format!("{dir}/{NAME}");
        // All in one go: each command is a round trip, and a process of the server's.
        // `mkdir` fails if there is anything of that name, so what it makes is ours alone. What
        // is found where others could have put it is copied here first, where nobody can change it
        // any more, and compared then. Who has the system's own is spared that: it would take longer
        // than all the rest.
        let script = format!(
            r#"{TELL}
u=$(uname -sm); echo "system $u"
[ "$u" = "Linux {machine}" ] || exit 13
umask 077
d={dir}
mkdir -m 700 "$d" || exit 10
e={earlier} p= w=
of_its_size() {{ [ -f "$1" ] && [ "$(wc -c < "$1")" -eq {size} ]; }}
i={installed}
# Of whom and in what: root's alone to alter, or not the system's own.
others=$( {{ find -L "$i" "${{i%/*}}" -prune \( ! -user 0 -o -perm -020 -o -perm -002 \); }} 2>&1)
[ -z "$others" ] && of_its_size "$i" && ln -s "$i" {program} && [ -x {program} ] && w=installed || rm -f {program}
if [ -z "$w" ]; then
  printf '#!/bin/sh\nexit 0\n' > "$d/try" && chmod 700 "$d/try" || {{ rm -rf "$d"; exit 11; }}
  "$d/try" 2>/dev/null || {{ rm -rf "$d"; exit 12; }}
  # Who sent a part had found nothing that is right.
  [ -z "$e" ] || [ ! -s "$e/{NAME}" ] || [ "$(wc -c < "$e/{NAME}")" -ge {size} ] || p=1
  take() {{ of_its_size "$1" && cp "$1" {program} && {{ [ -x {program} ] || chmod 700 {program}; }} && w=whole || {{ rm -f {program}; return 1; }}; }}
  [ -n "$p" ] || for f in ${{e:+"$e/{NAME}"}} /run/{NAME}.*/{NAME} /tmp/{NAME}.*/{NAME} /var/tmp/{NAME}.*/{NAME}; do
    [ ! -h "$f" ] && take "$f" && break
  done
  [ -n "$p$w" ] || take "$(command -v {NAME})" || take {INSTALLED}
fi
[ -z "$w" ] || echo $w
if [ -n "$e" ]; then
  [ -e {program} ] || {{ [ -f "$e/{NAME}" ] && [ ! -h "$e/{NAME}" ] && cp "$e/{NAME}" {program} && chmod 700 {program} && echo part $(wc -c < {program}); }} || rm -f {program}
  rm -rf "$e"
fi
(trap "" HUP INT TERM PIPE; n=0
while [ $n -lt {GUARD_STEPS} ]; do
  sleep {GUARD_STEP}; n=$((n+1))
  [ -d "$d" ] && [ ! -e "$d/{STARTED}" ] || exit 0
done
rm -rf "$d") </dev/null >/dev/null 2>&1 &
[ "$w" != whole ] || tell {program}
[ -n "$w" ] || exit 0
printf '\nready {dir}\n'
# A link is of no use to a connection that follows.
read -r line || {{ [ "$w" != installed ] || rm -rf "$d"; exit 0; }}
eval "$line"
exit 0"#,
            // What turned out not to be the agent is compared, like any other.
            installed = if trail.misled { "" } else { INSTALLED },
            earlier = trail.dir.as_deref().unwrap_or_default(),
            size = agent.bytes.len(),
            machine = agent.machine,
        );
        // A machine that has no program for sums sends what it found.
        let limit = agent.bytes.len() + 4096;
        let ready = format!("\nready {dir}\n");
        let marks = ["system ", &ready[..]];
        let made = session.answer("making a directory", &script, marks, limit, FILE).await;
        let (output, shell) = match made.map_err(|error| NotHere::Nowhere(error.into()))? {
            Answer::Ended(output) => (output, None),
            Answer::Waits(mut stdout, shell) => {
                if stdout.ends_with(ready.as_bytes()) {
                    stdout.truncate(stdout.len() - ready.len());
                }
                (Output { exit: Exit::Status(0), stdout, stderr: String::new() }, Some(shell))
            }
        };
        let mut said = &output.stdout[..];
        // What the login's own shell says before is skipped; a login that runs nothing says that alone.
        let system = std::iter::from_fn(|| (!said.is_empty()).then(|| line(&mut said)))
            .find_map(|line| line.strip_prefix("system ").map(str::to_owned));
        let (Some(system), Exit::Status(0 | 10..=13)) = (system, &output.exit) else {
            return Err(NotHere::Nowhere(runs_nothing(session, &output)));
        };
        let (kernel, machine) = system.split_once(' ').unwrap_or((&system, ""));
        check_machine(kernel, machine, agent)?;
        let why = match output.exit {
            Exit::Status(0) => {
                let first = line(&mut said);
                let mut words = first.split_whitespace();
                let found = match (words.next(), words.next().map(str::parse)) {
                    (Some("installed"), _) => Found::Installed,
                    (Some("whole"), _) if agent.is_told(said) => Found::Whole,
                    (Some("part"), Some(Ok(bytes))) => Found::Part(bytes),
                    _ => Found::Nothing,
                };
                let shell = match (found, shell) {
                    (Found::Installed | Found::Whole, shell) => shell,
                    (_, Some(shell)) => {
                        // It would remove the directory if it were told nothing.
                        let _ = shell.stdin.send("exit\n").await;
                        None
                    }
                    (_, None) => None,
                };
                return Ok(Place { dir, program, found, shell });
            }
            Exit::Status(10) => "no directory can be made".into(),
            Exit::Status(11) => "nothing can be written".into(),
            Exit::Status(12) => "mounted noexec".into(),
            exit => format!("{exit}: {}", output.stderr),
        };
        Err(NotHere::Unfit(why))
    }

    /// One line of POSIX sh that runs the agent, with words before it for its environment, and sees
    /// to the directory when it ended, however it ended: removes it at once where it ended well, and
    /// otherwise, so that a connection that comes soon finds the agent, after `keep`. No single
    /// quotes are in it.
    pub fn running(&self, environment: &str, keep: Duration) -> String {
        let Place { dir, program, .. } = self;
        // The traps keep the shell alive until it has cleaned up; a trapped signal is not
        // inherited as ignored.
        let remove = match keep.as_secs().div_ceil(2) {
            0 => format!("rm -rf {dir};"),
            steps => format!(
                "([ -d {dir} ] || exit 0; trap \"\" HUP INT TERM PIPE; n=0; \
                 while [ $n -lt {steps} ] && [ -d {dir} ]; do sleep 2; n=$((n+1)); done; \
                 rm -rf {dir}) </dev/null >/dev/null 2>&1 &"
            ),
        };
        format!(
            "trap : HUP INT TERM PIPE; : >{dir}/{STARTED}; {environment} {program}; s=$?; \
             if [ $s -eq 0 ]; then rm -rf {dir}; else {remove} fi; exit $s"
        )
    }

    /// The directory.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// The agent's file in it.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Removes it. A failure is logged: the directory is in memory or temporary.
    pub async fn remove(&self, session: &Session, bound: Duration) {
        if session.is_closed() {
            return;
        }
        let script = format!("rm -rf {}", self.dir);
        if let Err(e) = session.script("removing the agent", &script, bound).await {
            tracing::debug!("{} may still be there: {e}", self.dir);
        }
    }
}

/// The login's shell did not run what it was given: `nologin`, an image's "log in as …".
fn runs_nothing(session: &Session, output: &Output) -> UploadError {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let words = [output.stderr.trim(), stdout.trim()].into_iter().find(|text| !text.is_empty());
    UploadError::Ssh(SshError::Remote {
        host: session.destination().host.clone(),
        what: "making a directory".to_owned(),
        status: output.exit.to_string(),
        stderr: words.unwrap_or_default().chars().take(SAID).collect(),
    })
}

/// Takes a line off the front, without its end.
fn line(said: &mut &[u8]) -> String {
    let end = said.iter().position(|byte| *byte == b'\n').unwrap_or(said.len());
    let (line, rest) = said.split_at(end);
    *said = rest.strip_prefix(b"\n").unwrap_or(rest);
    String::from_utf8_lossy(line).trim().to_owned()
}
