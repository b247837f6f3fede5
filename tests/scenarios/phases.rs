//! An installation phase by phase, with files, owners and host keys of the operator's: a wrong
//! order is refused, another plan is too, and what each phase leaves the next goes on with.

use super::steps;
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Exit codes: docs/exit-codes.md.
const TARGET_UNFIT: i32 = 66;
const PLAN_CHANGED: i32 = 72;

/// A path of more than 35 characters, with spaces.
const LONG: &str = "/var/lib/a rather long name with spaces/and another directory in it";

/// A secret that must be where it belongs, and nowhere else.
pub(super) const SECRET: &str = "the-value-of-the-operators-secret";

/// Who gets the directory with it: an account of the installed system's (`tests/system/etc`).
const OWNER: &str = "nixbld1:nixbld";

/// Its numbers there.
const OWNER_IS: &str = "30001:30000";

/// An extended attribute of a file there.
const ATTRIBUTE: &str = "user.keystone";

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let toplevel = &cx.system()?.toplevels.reference;
    let medium = cx.medium()?;
    let layout = cx.layout("single-disk-root.json");
    let files = steps::Files::new()?;
    let keystone = cx.keystone()?;
    let hardware = Hardware::new("phases").disk(Disk::blank("target", 24)).tpm();
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let request = steps::request(cx, &ssh, &medium, toplevel, &layout)?;

    let extra = files.path("extra");
    operators_files(&extra)?;
    let added = additions(&extra);
    let added = steps::words(&added);
    let phase = |phase: &'static str| [&added[..], &["--phases", phase]].concat();

    let before =
        keystone.run("install", &request, &[&phase("install")[..], &["--dry-run"]].concat())?;
    before.refused(TARGET_UNFIT, &["disko has not run", "--phases disko"])?;
    let before = keystone.run("install", &request, &phase("reboot"))?;
    before.refused(TARGET_UNFIT, &["nothing was installed", "not restarted"])?;

    let outputs = files.outputs();
    // As `--phases disko`, on an installer.
    let disko = [&added[..], &["--stop-after-disko"]].concat();
    timed("up to the phase disko", || {
        keystone.install(&request, &disko, &steps::words(&outputs))?.ok()
    })?;
    ensure!(files.report()?["ends_at"] == "mounted", "the report does not end with the mounts");
    ensure!(
        ssh.ok("findmnt -no SOURCE /mnt")? == "rpool/crypt/system",
        "the target is not mounted"
    );
    ssh.ok("test ! -e /mnt/nix/store")?;
    keystone
        .run("install", &request, &phase("reboot"))?
        .refused(TARGET_UNFIT, &["install has not run"])?;
    let other = ["--phases", "install", "--dry-run"];
    keystone.run("install", &request, &other)?.refused(PLAN_CHANGED, &["other extra files"])?;

    // What was unmounted meanwhile is mounted again.
    ssh.ok("umount /mnt/boot")?;
    let report = ["--report".to_owned(), files.path("report").display().to_string()];
    timed("phase install", || {
        keystone.install(&request, &phase("install"), &steps::words(&report))?.ok()
    })?;
    let sealed = files.report()?;
    ensure!(sealed["ends_at"] == "sealed", "the report does not end with the seal");
    ensure!(ssh.run("findmnt /mnt")?.status.code() == Some(1), "something is mounted still");
    let twice =
        keystone.run("install", &request, &[&phase("install")[..], &["--dry-run"]].concat())?;
    twice.refused(TARGET_UNFIT, &["has run already"])?;
    let installer_key = ssh.ok("cat /etc/ssh/ssh_host_ed25519_key.pub")?;

    timed("phase reboot", || {
        let all = [&phase("reboot")[..], &steps::words(&report)].concat();
        keystone.run("install", &request, &all)?.ok()
    })?;
    let ssh = steps::rebooted(&running, &medium, toplevel, &files)?;
    additions_are_there(&ssh, &installer_key)?;
    running.kill()
}

/// Makes what the operator gives along, in `dir`.
pub(super) fn operators_files(dir: &Path) -> Result<()> {
    let at = |path: &str| dir.join(path.trim_start_matches('/'));
    let mode = |path: &str, mode| fs::set_permissions(at(path), fs::Permissions::from_mode(mode));
    fs::create_dir_all(at(LONG))?;
    fs::write(at(&format!("{LONG}/file")), "")?;
    xattr::set(at(&format!("{LONG}/file")), ATTRIBUTE, b"of the operator's")
        .context("an extended attribute of a file")?;
    symlink("/etc/hostname", at(&format!("{LONG}/link")))?;
    fs::create_dir_all(at("var/lib/secrets"))?;
    fs::write(at("var/lib/secrets/key"), SECRET)?;
    mode("var/lib/secrets/key", 0o600)?;
    mode("var/lib/secrets", 0o700)?;
    mode("var", 0o777)?;
    Ok(())
}

/// The options for that.
pub(super) fn additions(dir: &Path) -> Vec<String> {
    let mut added = vec!["--extra-files".to_owned(), dir.display().to_string()];
    added.extend(
        ["--chown", LONG, "1000:100", "--chown", "/var/lib/secrets", OWNER].map(str::to_owned),
    );
    added.push("--copy-host-keys".to_owned());
    added
}

/// Fails unless the installed system has it, and this host key.
pub(super) fn additions_are_there(ssh: &Ssh, installer_key: &str) -> Result<()> {
    let is = |command: &str, wanted: &str| -> Result<()> {
        let found = ssh.ok(command)?;
        ensure!(found == wanted, "`{command}` says {found:?}, not {wanted:?}");
        Ok(())
    };
    is("cat /var/lib/secrets/key", SECRET)?;
    is("stat -c '%a %u:%g' /var/lib/secrets/key", &format!("600 {OWNER_IS}"))?;
    is("stat -c '%a %u:%g' /var/lib/secrets", &format!("700 {OWNER_IS}"))?;
    is("stat -c '%a %u:%g' /var", "755 0:0")?;
    for below in ["", "/file", "/link"] {
        is(&format!("stat -c %u:%g '{LONG}{below}'"), "1000:100")?;
    }
    is("stat -c %u:%g /var/lib", "0:0")?;
    // An archive has it as a header: SCHILY.xattr.NAME=VALUE.
    let attributes = format!(
        "tar --xattrs -cf - '{LONG}/file' 2> /dev/null | grep -ao \"{ATTRIBUTE}=of the operator's\""
    );
    is(&attributes, &format!("{ATTRIBUTE}=of the operator's"))?;
    let key = ssh.ok("cat /etc/ssh/ssh_host_ed25519_key.pub")?;
    let first = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
    ensure!(first(&key) == first(installer_key), "another host key than the installer's: {key}");
    let found =
        ssh.ok(&format!("grep -rl {SECRET} /nix/store /var/log /run/log 2>/dev/null || true"))?;
    ensure!(found.is_empty(), "the secret is also in {found}");
    Ok(())
}
