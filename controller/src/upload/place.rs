//! A fresh directory on the machine from which programs may run.

use super::UploadError;
use super::local::{LocalAgent, NAME};
use crate::ssh::Session;
use rand::Rng;
use std::time::Duration;

/// Where a directory is tried, in order: memory first, then disks of the running system.
pub const CANDIDATES: &[&str] = &["/run", "/tmp", "/var/tmp", "/dev/shm", "/root"];
/// Bound of each command; `cp` from a slow medium included.
const COMMAND: Duration = Duration::from_secs(60);

/// A directory of our own: made afresh, mode 0700, owned by root, on a file system that runs
/// programs.
#[derive(Debug, Clone)]
pub struct Place {
    dir: String,
    program: String,
    /// A file of the agent's size was found on the machine and copied here.
    pub copied: bool,
}

/// The directory will not do, and why.
#[derive(Debug)]
pub struct NotHere(pub String);

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
    /// the machine already has: of an earlier try, or part of the ISO.
    pub async fn make(
        session: &Session,
        parent: &str,
        agent: &LocalAgent,
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
for f in /run/{NAME}.*/{NAME} /tmp/{NAME}.*/{NAME} /var/tmp/{NAME}.*/{NAME} "$(command -v {NAME})" /usr/libexec/keystone/{NAME}; do
  [ -f "$f" ] && [ ! -h "$f" ] && [ "$(wc -c < "$f")" -eq {size} ] || continue
  cp "$f" {program} && chmod 700 {program} && echo copied && break
  rm -f {program}
done
exit 0"#,
            size = agent.bytes.len(),
        );
        let made = session.output("making a directory", "/bin/sh -s", script, 4096, COMMAND).await;
        let output = made.map_err(|e| NotHere(e.to_string()))?;
        use crate::ssh::exec::Exit;
        match output.exit {
            Exit::Status(0) => {
                let copied = output.stdout.starts_with(b"copied");
                Ok(Place { dir, program, copied })
            }
            Exit::Status(10) => Err(NotHere("no directory can be made".into())),
            Exit::Status(11) => Err(NotHere("nothing can be written".into())),
            Exit::Status(12) => Err(NotHere("mounted noexec".into())),
            exit => Err(NotHere(format!("{exit}: {}", output.stderr))),
        }
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
