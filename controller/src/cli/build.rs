//! A flake's system, built here or on the machine.

use super::args::nix::NixArgs;
use crate::flake::{self, Builder, BuiltThere, Flake, NixError, NixOptions, NoBuilder};
use crate::install::{InstallError, LinkOptions, connect};
use crate::operator::{Notice, Operator};
use crate::ssh::HostKeyPolicy;
use crate::ssh::host_key::fingerprint;
use crate::stop::Stop;
use crate::ui::CommandLine;
use std::path::PathBuf;

/// Refuses `--build-on remote` where nothing is built, or no machine is called.
pub(super) fn check(
    nix: &NixArgs,
    flake: Option<&Flake>,
    machine: bool,
) -> Result<(), InstallError> {
    let why = match (nix.is_remote(), flake, machine) {
        (true, None, _) => {
            "nothing is built without --flake URI#NAME: leave it out, the system is there already"
        }
        (true, _, false) => "no machine is called, so none can build: leave it out",
        _ => return Ok(()),
    };
    Err(InstallError::Usage(format!("--build-on remote: {why}")))
}

/// Builds it here.
pub(super) async fn here(
    flake: &Flake,
    options: &NixOptions,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<PathBuf, InstallError> {
    let built = flake::toplevel(flake, options, operator, stop).await;
    if let Err(NixError::Failed { said, .. }) = &built
        && said.iter().any(|line| OTHER_PLATFORM.iter().any(|words| line.contains(words)))
    {
        operator.notice(Notice::Remark(
            "this computer can't build for that platform: with --build-on remote the machine does, \
             if it has Nix, as NixOS's installers have",
        ));
    }
    Ok(built?)
}

/// What Nix says of a derivation for another platform: until 2.29, and since. Source: Nix,
/// `src/libstore/build`, where a build can't be done here.
const OTHER_PLATFORM: &[&str] = &["is required to build", "Required system:"];

/// Builds it on the machine. A host key that was accepted is expected from then on.
pub(super) async fn there(
    flake: &Flake,
    link: &mut LinkOptions,
    options: &NixOptions,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<BuiltThere, InstallError> {
    let destination = link.destination.to_string();
    let prepared = async {
        operator.notice(Notice::Connecting { destination: &destination });
        let session = connect(&link.destination, &link.connect, operator).await?;
        operator.notice(Notice::Connected { host_key: &fingerprint(session.host_key()) });
        let root = session.as_root().await?;
        let builder = Builder::on(&root).await.map_err(|error| match error {
            NoBuilder::Unfit(why) => InstallError::Unfit(why),
            NoBuilder::Ssh(error) => error.into(),
            NoBuilder::Nix(error) => error.into(),
        })?;
        Ok::<_, InstallError>((session, builder))
    };
    let (session, builder) = tokio::select! {
        prepared = prepared => prepared?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    link.connect.host_key = HostKeyPolicy::exactly(session.host_key());
    operator.notice(Notice::Remark(&builder.words()));
    let built = builder.toplevel(flake, options, operator, stop).await;
    drop(builder);
    session.disconnect().await;
    Ok(built?)
}
