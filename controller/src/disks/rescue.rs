//! A look into an installed system, for repair: opened and mounted, a shell in it, closed and
//! sealed again.

use super::{DisksRequest, in_mode};
use crate::install::{InstallError, Link, LinkOptions};
use crate::operator::Operator;
use crate::ssh::exec::Exit;
use crate::stop::Stop;
use keystone_protocol::disko_mode::DiskoMode;
use keystone_protocol::options::InstallOptions;

/// Which machine's system, and what to do in it.
pub struct RescueRequest {
    /// The machine and how to reach it.
    pub link: LinkOptions,
    /// `disko.devices`, JSON as given.
    pub layout: String,
    /// The operator's choices; the mode does not matter.
    pub options: InstallOptions,
    /// What to run in the system; a login shell if empty.
    pub command: Vec<String>,
}

/// Mounts the system, runs the command or a shell in it, and closes and seals everything, however
/// that ended; how it ended.
///
/// # Errors
/// As a mode's. A system that can't be closed is left open, and the error says what keeps it.
pub async fn rescue<O: Operator>(
    request: RescueRequest,
    operator: &mut O,
    stop: &Stop,
) -> Result<Exit, InstallError> {
    let mode = |disko_mode| DisksRequest {
        link: request.link.clone(),
        layout: request.layout.clone(),
        options: InstallOptions { disko_mode, ..request.options.clone() },
        dry_run: false,
    };
    let mut link = tokio::select! {
        link = Link::open(&request.link, operator) => link?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    if let Err(error) = in_mode(&mut link, &mode(DiskoMode::Mount), operator, stop).await {
        link.give_up().await;
        return Err(error);
    }
    let command = shell(link.program(), &request.command);
    operator.stand_back();
    let ended = link.session.interactive(&command).await;
    // Whoever hung up or ended us wants it closed all the same: a pool that is left imported does
    // not boot.
    let closed = in_mode(&mut link, &mode(DiskoMode::Unmount), operator, &Stop::never()).await;
    link.end(closed.as_ref().err()).await;
    closed?;
    Ok(ended?)
}

/// The agent's own command that enters the system. Words go in hexadecimal: a login shell of any
/// kind reads them on their way.
fn shell(program: &str, command: &[String]) -> String {
    let words = command.iter().map(|word| format!(" {}", hex::encode(word)));
    format!("{program} shell{}", words.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_shell_takes_the_command() {
        let words = ["echo".to_owned(), "it's $HOME; \"x\"".to_owned()];
        let command = shell("/run/keystone-agent.0/keystone-agent", &words);
        let plain = |c: char| c.is_ascii_alphanumeric() || " /.-".contains(c);
        assert!(command.chars().all(plain), "{command}");
        assert!(command.ends_with(" shell 6563686f 697427732024484f4d453b20227822"), "{command}");
        assert_eq!(shell("a", &[]), "a shell");
    }
}
