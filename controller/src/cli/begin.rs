//! What precedes an installation.

use super::args::InstallArgs;
use super::args::kexec::KexecArgs;
use super::args::phases::Selected;
use super::link::reach_at;
use crate::install::hardware::{self, Tool};
use crate::install::{InstallError, LinkOptions, connect};
use crate::kexec::{self, KexecError, KexecRequest, Outcome, Source};
use crate::operator::{Notice, Operator};
use crate::ssh::host_key::fingerprint;
use crate::ssh::{Address, ConnectOptions, Destination, HostKeyPolicy, PublicKey};
use crate::stop::Stop;
use crate::ui::CommandLine;
use keystone_protocol::layout::Layout;
use std::path::Path;
use std::time::Duration;

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
    let selected = args.phases.selected(args.kexec.wanted());
    let selected = selected.map_err(|why| InstallError::Usage(why.to_owned()))?;
    if let Some(remark) = args.kexec.in_vain().filter(|_| !selected.kexec) {
        operator.notice(Notice::Remark(&remark));
    }
    if let Some(image) = args.kexec.kexec.as_ref().filter(|_| selected.kexec) {
        image.check().map_err(KexecError::from)?;
    }
    if selected.kexec {
        check_before_the_end(args, selected)?;
    }
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

/// What would be refused once the running system has ended, is refused before.
fn check_before_the_end(args: &InstallArgs, selected: Selected) -> Result<(), InstallError> {
    let usage = |why: &str| Err(InstallError::Usage(why.to_owned()));
    if args.kexec.force_kexec && args.kexec.kexec.is_none() {
        return usage("--force-kexec boots an image: name it with --kexec FILE|URL");
    }
    if args.kexec.kexec.as_ref().is_some_and(Source::is_in_the_clear)
        && args.kexec.kexec_sha256.is_none()
    {
        return usage(
            "anybody on the way can change what comes from an http:// address: say which image it is \
             with --kexec-sha256, or take an https:// address or a file",
        );
    }
    let agreement = &args.agreement;
    let says_what = agreement.plan_hash.is_some() || !agreement.disk_ids.is_empty();
    if selected.plan.any() && agreement.yes && !agreement.dry_run && !says_what {
        return usage(
            "--yes --end-system agrees that what runs ends, not to what is written then: name the \
             disks too (--disk-id) or the plan (--plan-hash), or stop before it with --phases kexec",
        );
    }
    match &args.secrets.recovery_key_file {
        Some(path) if selected.plan.disko && path.exists() => Err(InstallError::Usage(format!(
            "--recovery-key-file {}: it is there already, and is not overwritten",
            path.display()
        ))),
        _ => Ok(()),
    }
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
        let described = async {
            let root = session.as_root().await?;
            hardware::describe(&root, tool, Path::new(path)).await.map_err(InstallError::from)
        };
        let described = described.await;
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

/// The phase kexec. `None` if the machine stays as it is; otherwise the installer is where `options`
/// lead now. Either way the host key that was seen is expected from then on.
///
/// With the layout, if it is known already.
pub(super) async fn boot_installer(
    args: &InstallArgs,
    layout: Option<&Layout>,
    options: &mut LinkOptions,
    operator: &mut CommandLine,
    stop: &Stop,
) -> Result<Outcome, InstallError> {
    let KexecArgs { kexec: image, kexec_sha256, kexec_extra_flags: flags, force_kexec, .. } =
        &args.kexec;
    let address = answers_at(&args.kexec, &options.destination);
    let (then, then_connect) = reach_at(&args.link, &address, &options.connect, operator)?;
    let request = KexecRequest {
        destination: options.destination.clone(),
        connect: options.connect.clone(),
        then,
        then_connect,
        image: image.clone(),
        sha256: *kexec_sha256,
        flags: flags.clone(),
        force: *force_kexec,
        dry_run: args.agreement.dry_run,
        wipes: layout.map(|layout| wipes(args, layout)).unwrap_or_default(),
        bound: Duration::from_secs(args.boot_timeout),
    };
    let outcome = kexec::kexec(&request, operator, stop).await?;
    match &outcome {
        Outcome::NothingToDo(key) => {
            options.connect.host_key = HostKeyPolicy::exactly(key);
            operator
                .notice(Notice::Remark("the machine is in an installer: nothing to do for kexec"));
        }
        Outcome::Booted(key) => {
            let text = go_on(&request.then, key);
            operator.notice(Notice::Remark(&text));
            options.destination = request.then;
            options.connect =
                ConnectOptions { host_key: HostKeyPolicy::exactly(key), ..request.then_connect };
        }
        Outcome::Planned => {}
    }
    Ok(outcome)
}

/// Where the image of a machine answers: it lets root in, at a port of its own.
fn answers_at(args: &KexecArgs, machine: &Destination) -> Address {
    Address {
        user: Some("root".into()),
        host: args.post_kexec_ssh_host.clone().unwrap_or_else(|| machine.host.clone()),
        port: Some(args.post_kexec_ssh_port),
    }
}

/// The words for the disks that would be wiped, if nobody agreed to lose what is on them.
fn wipes(args: &InstallArgs, layout: &Layout) -> Vec<String> {
    let system = &args.system;
    let phases = args.phases.selected(args.kexec.wanted());
    let makes = phases.is_ok_and(|selected| selected.plan.disko);
    if system.writing.erase || !system.disko_mode.destroys() || !makes {
        return Vec::new();
    }
    let given = system.names.options().disks;
    let wiped = layout.disks.iter().filter(|disk| disk.destroy);
    wiped.map(|disk| given.get(&disk.name).unwrap_or(&disk.device).clone()).collect()
}

/// How to go on with a machine that was booted into the installer, should this end before.
fn go_on(at: &Destination, key: &PublicKey) -> String {
    let Destination { user, host, port } = at;
    let port = if *port == 22 { String::new() } else { format!(" -p {port}") };
    format!(
        "should this end early, do not boot the image again: the same command goes on with \
         {user}@{host}{port} --host-key {} --phases disko,install,reboot in place of the machine's \
         address, --host-key, --kexec and --phases",
        fingerprint(key)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use clap::Parser;

    /// The machine's own port and user say nothing of the image.
    #[test]
    fn where_the_image_answers() {
        let at = |given: &[&str]| {
            let line = ["keystone", "install", "alice@nas", "--store-path", "x", "--layout", "x"];
            let cli = Cli::try_parse_from(line.iter().chain(given)).unwrap();
            let Command::Install(args) = cli.command else { panic!("{given:?}") };
            let mut machine: Destination = "alice@nas".parse().unwrap();
            machine.port = args.link.port.unwrap_or(machine.port);
            let Address { user, host, port } = answers_at(&args.kexec, &machine);
            assert_eq!(user.as_deref(), Some("root"));
            (host, port)
        };
        let is = |host: &str, port| (host.to_owned(), Some(port));
        assert_eq!(at(&[]), is("nas", 22));
        assert_eq!(at(&["-p", "2222"]), is("nas", 22));
        let port = ["--post-kexec-ssh-port", "2200"];
        assert_eq!(at(&port), is("nas", 2200));
        assert_eq!(at(&[&port[..], &["-p", "2222"]].concat()), is("nas", 2200));
        let host = ["--post-kexec-ssh-host", "10.0.0.5"];
        assert_eq!(at(&[&host[..], &["-p", "2222"]].concat()), is("10.0.0.5", 22));
        assert_eq!(at(&[&port[..], &host].concat()), is("10.0.0.5", 2200));
    }

    #[test]
    fn what_goes_on_names_the_place_and_the_key() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
        let key = PublicKey::from_openssh(key).unwrap();
        let text = go_on(&"root@fd00::1".parse().unwrap(), &key);
        let wanted = format!("with root@fd00::1 --host-key {} --phases", fingerprint(&key));
        assert!(text.contains(&wanted), "{text}");
        assert!(go_on(&"root@h:2222".parse().unwrap(), &key).contains("root@h -p 2222 --host-key"));
    }
}
