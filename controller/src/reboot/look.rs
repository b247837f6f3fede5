//! One look at whoever answers.

use super::Before;
use crate::ssh::connect::look as look_at;
use crate::ssh::host_key::fingerprint;
use crate::ssh::{ConnectOptions, Destination, PublicKey, Session, SshError};
use std::fmt;
use std::time::Duration;

/// Bound of connecting, and of each command.
const BOUND: Duration = Duration::from_secs(15);

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nobody, and why.
    Nobody(String),
    /// The installer that is going down: the same boot id.
    GoingDown,
    /// The installer, booted again.
    Installer,
    /// The new system, which is still starting.
    Starting,
    /// The installed host key, but no login.
    NotLetIn(String),
    /// The new system.
    Installed(Machine),
    /// Somebody with another host key.
    Stranger(String),
}

/// What a system says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Its boot id.
    pub boot_id: String,
    /// `/run/current-system`, resolved; empty if there is none.
    pub system: String,
    /// `VARIANT_ID` of its os-release.
    pub variant: String,
    /// Its host name.
    pub hostname: String,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Nobody(why) => write!(f, "nobody answers ({why})"),
            Seen::GoingDown => f.write_str("the installer is still going down"),
            Seen::Installer => f.write_str("the installer answers again"),
            Seen::Starting => f.write_str("the new system is starting"),
            Seen::NotLetIn(why) => write!(f, "the new system answers, but lets nobody in: {why}"),
            Seen::Installed(machine) => write!(f, "{} runs", machine.system),
            Seen::Stranger(print) => {
                write!(f, "somebody with another host key answers ({print}), an initrd perhaps")
            }
        }
    }
}

/// Looks once.
pub async fn look(
    at: &Destination,
    connect: &ConnectOptions,
    expected: &PublicKey,
    before: &Before,
) -> Seen {
    let looked = match look_at(at, connect, BOUND).await {
        Ok(looked) => looked,
        Err(error) => return Seen::Nobody(brief(&error)),
    };
    let same = |key: &PublicKey| looked.host_key.key_data() == key.key_data();
    let installed = same(expected);
    let session = match looked.login {
        Ok(session) => session,
        Err(error) if installed => return Seen::NotLetIn(brief(&error)),
        Err(_) if same(&before.installer) => return Seen::GoingDown,
        Err(_) => return Seen::Stranger(fingerprint(&looked.host_key)),
    };
    let machine = ask(&session).await;
    session.disconnect().await;
    let machine = match machine {
        Ok(machine) => machine,
        Err(_) if installed => return Seen::Starting,
        Err(error) => return Seen::Nobody(brief(&error)),
    };
    // What a machine without the expected key says of itself proves nothing, but tells the
    // operator what happened.
    if machine.boot_id == before.boot_id {
        Seen::GoingDown
    } else if installed {
        Seen::Installed(machine)
    } else if machine.variant == "installer" || same(&before.installer) {
        Seen::Installer
    } else {
        Seen::Stranger(fingerprint(&looked.host_key))
    }
}

async fn ask(session: &Session) -> Result<Machine, SshError> {
    // NixOS has no /usr/bin; a login shell's PATH has what is needed.
    let script = r#"cat /proc/sys/kernel/random/boot_id
readlink -f /run/current-system 2>/dev/null || echo
[ -e /run/current-system ] && echo yes || echo no
(. /etc/os-release 2>/dev/null; echo "$VARIANT_ID")
cat /proc/sys/kernel/hostname"#;
    let out = session.script("asking the new system", script, BOUND).await?;
    let text = String::from_utf8_lossy(&out);
    let mut lines = text.lines().map(|line| line.trim().to_owned());
    let mut next = || lines.next().unwrap_or_default();
    let mut machine = Machine { boot_id: next(), system: next(), ..Machine::default() };
    // `readlink -f` also prints what is not there.
    if next() != "yes" {
        machine.system.clear();
    }
    machine.variant = next();
    machine.hostname = next();
    Ok(machine)
}

/// The innermost cause.
fn brief(error: &SshError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
