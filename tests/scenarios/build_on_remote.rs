//! One command from a flake to the installed system, which the machine builds itself: its Nix takes
//! from a binary cache what that has, and builds the rest. Here the flake is only evaluated.
//!
//! The flake is that of the reference system, so what has to come of it is known: the path that the
//! lab's own Nix built, with the same contents. Its SSH host key is given, and known before it boots.

use super::installed::check_store;
use super::steps;
use crate::keystone::{Started, with_store};
use crate::lab::timed;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::run::run as run_tool;
use crate::runner::{Context, Live};
use crate::system::{BinaryCache, System};
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const FLAKE: &str = include_str!("build_on_remote.nix");

/// The database of the machine's Nix.
const DATABASE: &str = "/nix/var/nix/db/db.sqlite";

/// How long it may take until the closure comes, and from then on.
const BOUND: Duration = Duration::from_secs(900);

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let system = cx.system()?;
    let toplevel = &system.toplevels.next;
    // An earlier generation: all that the flake's system is made of, but not the system.
    let cache = system.binary_cache(cx.lab(), &system.toplevels.reference)?;
    let medium = cx.oracle()?;
    let files = steps::Files::new()?;
    for name in ["nix", "home", "tmp", "flake"] {
        fs::create_dir(files.path(name))?;
    }
    flake(system, &cx.layout("single-disk-root.json"), &files.path("flake"))?;
    let host_key = files.path("host-key");
    let keygen = ["-q", "-t", "ed25519", "-N", "", "-C", "given", "-f"];
    run_tool(Command::new("ssh-keygen").args(keygen).arg(&host_key))?;

    let with_cache = Disk { from: Some(cache.image.clone()), ..Disk::blank("cache", 1) };
    let hardware = Hardware::new("build-on-remote").memory(4096).tpm();
    let hardware = hardware.disk(Disk::blank("target", 24)).disk(with_cache);
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    has_nix(&ssh, &cache)?;

    let mut command = cx.keystone()?.on("install", &ssh, &medium.key);
    command.arg("--flake").arg(format!("{}#keystone-ref", files.path("flake").display()));
    command.args(["--build-on", "remote", "-L", "--yes", "--disk-id", "virtio-target", "--json"]);
    command.args(files.outputs()).arg("--host-key-file").arg(&host_key);
    command.env("HOME", files.path("home")).env("TMPDIR", files.path("tmp"));
    command.env("NIX_REMOTE", "").env("NIX_CONFIG", "build-users-group =\nsubstitute = false\n");
    let ended = timed("build there, install, reboot", || {
        let mut install = Started::new(with_store(&command, &files.path("nix")))?;
        install.wait_for(&["\"progress\"", "\"closure\""], BOUND)?;
        // The machine's store is in memory, and gone with the reboot.
        built_there(&ssh, toplevel)?;
        install.end(BOUND)?.ok()
    })?;

    let built = built(&ended.stdout);
    ensure!(built.len() == 1, "not one thing was built, but {built:?}:\n{}", ended.stdout);
    let words = "the system is built on root@127.0.0.1";
    ensure!(ended.stdout.contains(words), "{words} is not in the output:\n{}", ended.stdout);
    only_evaluated_here(&files.path("nix/store"), toplevel)?;
    let left = fs::read_dir(files.path("tmp"))?.count();
    ensure!(left == 0, "{left} temporary files are left");

    let ssh = steps::rebooted(&running, &medium, toplevel, &files)?;
    check_store(&ssh, system, toplevel)?;
    let given = fs::read_to_string(host_key.with_extension("pub"))?;
    let known = fs::read_to_string(ssh.known_hosts())?;
    let blob = given.split(' ').nth(1).context("a public key has three words")?;
    ensure!(known.contains(blob), "it answers with another host key than {given}:\n{known}");
    let modes = ssh.ok("stat -c '%a %u:%g' /etc/ssh/ssh_host_ed25519_key")?;
    ensure!(modes == "600 0:0", "the host key's file has {modes}");
    running.kill()
}

/// What Nix said it builds.
pub(super) fn built(said: &str) -> BTreeSet<&str> {
    let after = said.split("building '/nix/store/").skip(1);
    after.filter_map(|rest| rest.split('\'').next()).collect()
}

/// Makes the flake in `dir`.
pub(super) fn flake(system: &System, layout: &Path, dir: &Path) -> Result<()> {
    fs::write(dir.join("flake.nix"), FLAKE)?;
    fs::copy(&system.inputs, dir.join("inputs.json"))?;
    fs::copy(layout, dir.join("layout.json"))?;
    run_tool(Command::new("cp").arg("-r").args([&system.expressions, &dir.join("system")]))?;
    Ok(())
}

/// Makes the live system one whose Nix builds, and fetches from the cache only.
fn has_nix(ssh: &Ssh, cache: &BinaryCache) -> Result<()> {
    let conf = format!(
        "build-users-group =\nsandbox = false\nsubstituters = file:///srv/cache\n\
         trusted-public-keys = {}\n",
        cache.public_key
    );
    ssh.ok("mkdir -p /srv/cache && mount -o ro /dev/disk/by-id/virtio-cache /srv/cache")?;
    ssh.ok_given("mkdir -p /etc/nix && cat > /etc/nix/nix.conf", &conf)?;
    ssh.ok("test ! -e /nix/store").context("the machine has a store already")?;
    Ok(())
}

/// The machine's Nix built the system, and nothing else.
fn built_there(ssh: &Ssh, toplevel: &str) -> Result<()> {
    // Nix marks what it built itself, not what it fetched (`ultimate`, libstore/path-info.hh).
    let query = "SELECT path FROM ValidPaths WHERE ultimate = 1";
    let built = ssh.ok(&format!("sqlite3 -readonly {DATABASE} '{query}'"))?;
    ensure!(built == toplevel, "the machine built {built:?}, not {toplevel}");
    let signed = "SELECT count(*) FROM ValidPaths WHERE sigs LIKE 'lab:%'";
    let fetched = ssh.ok(&format!("sqlite3 -readonly {DATABASE} \"{signed}\""))?;
    ensure!(fetched.parse::<u32>()? > 200, "{fetched} paths came from the cache");
    println!("    built on the machine: {built}; from the cache: {fetched} paths");
    Ok(())
}

/// The store here has derivations and sources, and no outputs.
fn only_evaluated_here(store: &Path, toplevel: &str) -> Result<()> {
    let names: Vec<String> = fs::read_dir(store)
        .context("nothing was evaluated here")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    let system = Path::new(toplevel).file_name().context("a toplevel has a name")?;
    let name = system.to_string_lossy();
    let (_, name) = name.split_once('-').context("a store path has a hash")?;
    ensure!(
        names.iter().any(|known| known.ends_with(&format!("-{name}.drv"))),
        "the system was not evaluated here: {names:?}"
    );
    let outputs = names.iter().filter(|known| known.ends_with(&format!("-{name}"))).count();
    ensure!(outputs == 0, "the system is in the store here too: {names:?}");
    let package = names.iter().find(|known| known.ends_with("-system-path"));
    ensure!(package.is_none(), "{package:?} is in the store here");
    Ok(())
}
