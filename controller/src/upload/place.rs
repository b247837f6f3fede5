//! A fresh directory on the machine from which programs may run.

use super::UploadError;
use super::local::{LocalAgent, NAME};
use crate::ssh::{Session, SshError};
use rand::Rng;
use std::time::Duration;

/// Where a directory is tried, in order: memory first, then disks of the running system.
pub const CANDIDATES: &[&str] = &["/run", "/tmp", "/var/tmp", "/dev/shm", "/root"];
/// A file that says that the agent was started, so that whoever started it removes the directory.
const STARTED: &str = "started";
/// Bound of each command; `cp` from a slow medium included.
const COMMAND: Duration = Duration::from_secs(60);

/// How long a directory stays whose agent is never started, in steps of [`GUARD_STEP`] s: longer
/// than sending the agent and reading it back may take.
const GUARD_STEPS: u32 = 140;
const GUARD_STEP: u32 = 5;

/// What a directory was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing of use.
    Nothing,
    /// A file of the agent's size, found on the machine and copied here.
    Whole,
    /// The first so many bytes of what an earlier connection sent.
    Part(u64),
}

impl Found {
    /// Bytes that are there, of `whole`.
    pub fn bytes(self, whole: u64) -> u64 {
        match self {
            Found::Nothing => 0,
            Found::Whole => whole,
            Found::Part(bytes) => bytes,
        }
    }
}

/// A directory of our own: made afresh, mode 0700, owned by root, on a file system that runs
/// programs. The machine removes it after a while if no agent is started in it.
#[derive(Debug, Clone)]
pub struct Place {
    dir: String,
    program: String,
    /// What is in it.
    pub found: Found,
}

/// The directory will not do.
#[derive(Debug)]
pub enum NotHere {
    /// Why; another may.
    Unfit(String),
    /// Nothing was found out.
    Connection(SshError),
}

/// Refuses machines on which the agent can't run.
pub async fn check_machine(session: &Session, agent: &LocalAgent) -> Result<(), UploadError> {
    let script = "uname -s; uname -m";
    let out = session.script("looking at the machine", script, COMMAND).await?;
    let text = String::from_utf8_lossy(&out);
    let mut lines = text.lines().map(str::trim);
    let mut next = || lines.next().unwrap_or_default().to_owned();
    let (kernel, machine) = (next(), next());
    if kernel != "Linux" {
        return Err(UploadError::NotLinux { found: kernel });
    }
    if machine != agent.machine {
        return Err(UploadError::OtherMachine { machine, agent: agent.machine.to_owned() });
    }
    Ok(())
}

impl Place {
    /// Makes a directory in `parent`, tries whether programs run there, and copies an agent that
    /// the machine already has: part of the ISO, or of an earlier connection, also one that broke
    /// while it was sent. `earlier` is the directory of this controller's last connection, which
    /// goes.
    pub async fn make(
        session: &Session,
        parent: &str,
        agent: &LocalAgent,
        earlier: Option<&str>,
    ) -> Result<Self, NotHere> {
        let random: [u8; 8] = rand::rng().random();
        let dir = format!("{parent}/{NAME}.{}", hex::encode(random));
        let program = format!("{dir}/{NAME}");
        // `mkdir` fails if there is anything of that name, so what it makes is ours alone. What
        // is found elsewhere is copied here first, where nobody can change it any more, and
        // compared then.
        let script = format!(
            r#"umask 077
d={dir}
mkdir "$d" || exit 10
chmod 700 "$d"
printf '#!/bin/sh\nexit 0\n' > "$d/try" && chmod 700 "$d/try" || {{ rm -rf "$d"; exit 11; }}
"$d/try" 2>/dev/null || {{ rm -rf "$d"; exit 12; }}
rm -f "$d/try"
e={earlier}
for f in ${{e:+"$e/{NAME}"}} /run/{NAME}.*/{NAME} /tmp/{NAME}.*/{NAME} /var/tmp/{NAME}.*/{NAME} "$(command -v {NAME})" /usr/libexec/keystone/{NAME}; do
  [ -f "$f" ] && [ ! -h "$f" ] && [ "$(wc -c < "$f")" -eq {size} ] || continue
  cp "$f" {program} && chmod 700 {program} && echo whole && break
  rm -f {program}
done
if [ -n "$e" ]; then
  [ -e {program} ] || {{ [ -f "$e/{NAME}" ] && cp "$e/{NAME}" {program} && chmod 700 {program} && echo part $(wc -c < {program}); }} || rm -f {program}
  rm -rf "$e"
fi
(trap "" HUP INT TERM PIPE; n=0
while [ $n -lt {GUARD_STEPS} ]; do
  sleep {GUARD_STEP}; n=$((n+1))
  [ -d "$d" ] && [ ! -e "$d/{STARTED}" ] || exit 0
done
rm -rf "$d") </dev/null >/dev/null 2>&1 &
exit 0"#,
            earlier = earlier.unwrap_or_default(),
            size = agent.bytes.len(),
        );
        let made = session.output("making a directory", "/bin/sh -s", script, 4096, COMMAND).await;
        let output = made.map_err(NotHere::Connection)?;
        use crate::ssh::exec::Exit;
        let why = match output.exit {
            Exit::Status(0) => {
                let said = String::from_utf8_lossy(&output.stdout);
                let mut words = said.split_whitespace();
                let found = match (words.next(), words.next().map(str::parse)) {
                    (Some("whole"), _) => Found::Whole,
                    (Some("part"), Some(Ok(bytes))) => Found::Part(bytes),
                    _ => Found::Nothing,
                };
                return Ok(Place { dir, program, found });
            }
            Exit::Status(10) => "no directory can be made".into(),
            Exit::Status(11) => "nothing can be written".into(),
            Exit::Status(12) => "mounted noexec".into(),
            exit => format!("{exit}: {}", output.stderr),
        };
        Err(NotHere::Unfit(why))
    }

    /// A line of POSIX sh that runs the agent, with words before it for its environment, and sees
    /// to the directory when it ended, however it ended: removes it at once, or, so that a
    /// connection that comes soon finds the agent, after `keep`. No single quotes are in it.
    pub fn running(&self, environment: &str, keep: Duration) -> String {
        let Place { dir, program, .. } = self;
        // The traps keep the shell alive until it has cleaned up; a trapped signal is not
        // inherited as ignored.
        let remove = match keep.as_secs().div_ceil(2) {
            0 => format!("rm -rf {dir}"),
            steps => format!(
                "[ -d {dir} ] && (trap \"\" HUP INT TERM PIPE; n=0; \
                 while [ $n -lt {steps} ] && [ -d {dir} ]; do sleep 2; n=$((n+1)); done; \
                 rm -rf {dir}) </dev/null >/dev/null 2>&1 &"
            ),
        };
        format!(
            "trap : HUP INT TERM PIPE; : >{dir}/{STARTED}; {environment} {program}; s=$?\n\
             {remove}\nexit $s"
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
