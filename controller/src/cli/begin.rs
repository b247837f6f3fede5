//! What precedes an installation.

use super::args::InstallArgs;
use super::args::phases::Selected;
use crate::install::hardware::{self, Tool};
use crate::install::{InstallError, LinkOptions, connect};
use crate::operator::{Notice, Operator};
use crate::ssh::HostKeyPolicy;
use crate::stop::Stop;
use crate::ui::CommandLine;
use std::path::Path;
use std::time::Duration;

/// Bound of one question to the machine.
const BOUND: Duration = Duration::from_secs(30);

/// Which phases are run, once it is sure that every option can be obeyed.
pub(super) fn selected(
    args: &InstallArgs,
    operator: &mut CommandLine,
) -> Result<Selected, InstallError> {
    if let Some(why) = args.peer.refused() {
        return Err(InstallError::Usage(why));
    }
    for remark in args.peer.without_effect() {
        operator.notice(Notice::Remark(remark));
    }
    let selected = args.phases.selected().map_err(|why| InstallError::Usage(why.to_owned()))?;
    if args.verify && !selected.reboot {
        return Err(InstallError::Usage(
            "--verify asks the new system, so the phase reboot has to be among --phases".to_owned(),
        ));
    }
    if let Some(path) = &args.hardware_report {
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
        opened.map_err(|error| {
            InstallError::Usage(format!("--hardware-report {}: {error}", path.display()))
        })?;
    }
    Ok(selected)
}

/// Has the machine describe its hardware, if that was asked for. A host key that was accepted is
/// expected from then on.
pub(super) async fn describe_hardware(
    args: &InstallArgs,
    options: &mut LinkOptions,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let [tool, path] = args.generate_hardware_config.as_slice() else { return Ok(()) };
    let tool: Tool = tool.parse().map_err(InstallError::Usage)?;
    let described = async {
        let session = connect(&options.destination, &options.connect, operator).await?;
        let key = session.host_key().clone();
        let described = hardware::describe(&session, tool, Path::new(path)).await;
        session.disconnect().await;
        described?;
        Ok::<_, InstallError>(key)
    };
    let key = tokio::select! {
        key = described => key?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    options.connect.host_key = HostKeyPolicy::exactly(&key);
    let text = format!("{} wrote {path}", tool.name());
    operator.notice(Notice::Remark(&text));
    Ok(())
}

/// The phase kexec: nothing to do on a machine that is in its installer, and refused on another.
pub(super) async fn need_installer(
    options: &mut LinkOptions,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<(), InstallError> {
    let asked = async {
        let session = connect(&options.destination, &options.connect, operator).await?;
        let key = session.host_key().clone();
        let script = ". /etc/os-release 2>/dev/null; printf '%s\\n' \"$VARIANT_ID\" \"$PRETTY_NAME\"";
        let said = session.script("asking what runs there", script, BOUND).await;
        session.disconnect().await;
        Ok::<_, InstallError>((key, said?))
    };
    let (key, said) = tokio::select! {
        asked = asked => asked?,
        () = stop.asked(1) => return Err(InstallError::Interrupted),
    };
    options.connect.host_key = HostKeyPolicy::exactly(&key);
    let said = String::from_utf8_lossy(&said);
    let mut lines = said.lines();
    let (variant, name) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if variant == "installer" {
        operator.notice(Notice::Remark("the machine is in an installer: nothing to do for kexec"));
        return Ok(());
    }
    Err(InstallError::Unfit(format!(
        "the machine runs {}, not an installer, and keystone does not boot one by kexec: boot it \
         from the installer's medium, then run the same command without the phase kexec",
        if name.is_empty() { "something unknown" } else { name }
    )))
}
