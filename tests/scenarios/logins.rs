//! One machine, and the ways in which people log in at one: each brings the agent there and takes stock
//! of that machine, and leaves nothing behind that lets anybody in.

use super::steps;
use crate::keystone::{self, Ended, Keystone};
use crate::lab::timed;
use crate::loopback::Sshd;
use crate::machine::Hardware;
use crate::machine::disk::Disk;
use crate::machine::ssh::Ssh;
use crate::run::run as run_tool;
use crate::runner::{Context, Live};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Exit code: docs/exit-codes.md.
const SSH_REFUSED: i32 = 69;

/// How long the machine's server may take to read its configuration again.
const RELOAD: Duration = Duration::from_secs(60);

/// What the machine's server takes beside keys. The first word in a file holds (sshd_config(5)).
const SERVER: &str = "PasswordAuthentication yes\nPermitRootLogin yes\n\
    TrustedUserCAKeys /etc/ssh/users-ca.pub\nHostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\n";

/// Runs the scenario.
pub(super) fn run(cx: &Context) -> Result<()> {
    let medium = cx.medium()?;
    let files = steps::Files::new()?;
    let hardware = Hardware::new("logins").disk(Disk::blank("target", 1));
    let Live { running, machine: _machine, ssh } = Live::boot(hardware, &medium)?;
    let before = lets_in(&ssh)?;
    let keys = Keys::make(&files, &ssh)?;
    let boot_id = ssh.ok("cat /proc/sys/kernel/random/boot_id")?;
    let way = Sshd::start()?;
    let agent = Agent::with(&files.path("agent"), &medium.key)?;
    let config = keys.config(&files, &ssh, &way, &medium.key)?;

    let port = ssh.port().to_string();
    let known = ssh.known_hosts().display().to_string();
    let direct = ["root@127.0.0.1", "--port", &port];
    let no_key = ["--ssh-option", "IdentitiesOnly=yes", "--ssh-option", "IdentityFile=none"];
    let key = medium.key.display().to_string();
    let certified = keys.certified.display().to_string();
    let password = files.path("password").display().to_string();
    let authority = keys.authority.display().to_string();
    let changed = keys.changed.display().to_string();
    let inventory = |words: &[&str], environment: &[(&str, &str)]| -> Result<Ended> {
        let mut command = Command::new(&cx.keystone()?.controller);
        command.arg("inventory").args(words).arg("--json").arg("--agent");
        command.arg(&cx.keystone()?.agent).env_clear().env("HOME", files.path(""));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(environment.iter().copied());
        keystone::run(command)
    };
    let gets_in = |how: &str, words: &[&str], environment: &[(&str, &str)]| {
        timed(how, || {
            let ended = inventory(words, environment)?.ok()?;
            let found: Value = serde_json::from_str(&ended.stdout).context("no inventory")?;
            let found = found.pointer("/system/boot_id").and_then(Value::as_str);
            ensure!(found == Some(&boot_id), "that is another machine: {found:?}");
            let all = [&ended.stdout[..], &ended.stderr].concat();
            ensure!(!all.contains(steps::PASSWORD), "the password is in the output:\n{all}");
            Ok(())
        })
    };
    let pinned = [&direct[..], &["--known-hosts", &known]].concat();

    gets_in("a key", &[&pinned[..], &["-i", &key]].concat(), &[])?;
    own_agent(cx, &ssh, &[&pinned[..], &["-i", &key]].concat())?;
    let socket = agent.socket.display().to_string();
    gets_in("a key in an agent", &pinned, &[("SSH_AUTH_SOCK", &socket)])?;
    let with_password = [&pinned[..], &no_key, &["--ssh-password-file", &password]].concat();
    gets_in("nothing but a password", &with_password, &[])?;
    let from_environment = [&pinned[..], &no_key, &["--env-password"]].concat();
    gets_in("a password in the environment", &from_environment, &[("SSHPASS", steps::PASSWORD)])?;
    gets_in("a certificate of a user", &[&pinned[..], &["-i", &certified]].concat(), &[])?;
    let by_authority = [&direct[..], &["--known-hosts", &authority, "-i", &key]].concat();
    gets_in("a certificate of the host", &by_authority, &[])?;
    let config = ["--ssh-config", &config];
    gets_in("through another server", &[&["behind"], &config[..]].concat(), &[])?;
    gets_in("through it, to an address of IPv6", &[&["root@[::1]"], &config[..]].concat(), &[])?;

    let another = [&direct[..], &["--known-hosts", &changed, "-i", &key]].concat();
    inventory(&another, &[])?.refused(SSH_REFUSED, &["host key", "127.0.0.1"])?;
    let no_password = [&pinned[..], &no_key].concat();
    inventory(&no_password, &[])?.refused(SSH_REFUSED, &["password"])?;
    let uncertified = keys.uncertified.display().to_string();
    let stranger = [&pinned[..], &["-i", &uncertified]].concat();
    inventory(&stranger, &[])?.refused(SSH_REFUSED, &["127.0.0.1"])?;

    let after = lets_in(&ssh)?;
    ensure!(after == before, "who is let in has changed from\n{before}\nto\n{after}");
    running.kill()
}

/// The agent that the live system has is used, and what only looks like it is not.
fn own_agent(cx: &Context, ssh: &Ssh, words: &[&str]) -> Result<()> {
    let Keystone { controller, agent } = cx.keystone()?;
    let own = "/usr/libexec/keystone/keystone-agent";
    ssh.ok(&format!("mkdir -p {}", Path::new(own).parent().context("a file")?.display()))?;
    ssh.put(agent, own)?;
    let last = fs::metadata(agent)?.len() - 1;
    for (what, make, is_used) in [
        ("the live system's own agent", format!("chmod 755 {own}"), true),
        // Behind all that a program needs to run.
        (
            "another agent",
            format!("printf '\\377' | dd of={own} bs=1 seek={last} conv=notrunc"),
            false,
        ),
        ("another program", format!("cp /bin/cat {own} && truncate -s {} {own}", last + 1), false),
        ("no program", format!("truncate -s 0 {own} && truncate -s {} {own}", last + 1), false),
    ] {
        timed(what, || {
            ssh.ok(&make)?;
            let mut command = Command::new(controller);
            command.arg("inventory").args(words).arg("--agent").arg(agent);
            let said = keystone::run(command)?.ok()?.stderr;
            let (used, refused) =
                (said.contains("which was there already"), said.contains("is not used"));
            ensure!((used, refused) == (is_used, !is_used), "{what}: {said}");
            Ok(())
        })?;
    }
    ssh.ok(&format!("rm -r {own}; ls -d /run/keystone-agent.* 2>/dev/null || true"))
        .and_then(|left| Ok(ensure!(left.is_empty(), "left behind: {left}")))
}

/// Everything that root's logins are decided by, as it is in files.
fn lets_in(ssh: &Ssh) -> Result<String> {
    ssh.ok("find /root/.ssh -type f -exec sha256sum {} + | sort")
}

/// Keys and what knows them, on the operator's computer.
struct Keys {
    /// With a certificate beside it.
    certified: PathBuf,
    /// Without.
    uncertified: PathBuf,
    /// Known hosts: the authority of hosts.
    authority: PathBuf,
    /// Known hosts: another key than the machine's.
    changed: PathBuf,
}

impl Keys {
    /// Makes them, and has the machine's server take them.
    fn make(files: &steps::Files, ssh: &Ssh) -> Result<Keys> {
        let at = |name: &str| files.path(name);
        for name in ["users-ca", "hosts-ca", "certified", "uncertified"] {
            let keygen = ["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"];
            run_tool(Command::new("ssh-keygen").args(keygen).arg(at(name)))?;
        }
        let sign = |authority: &str, options: &[&str], key: &Path| {
            let mut keygen = Command::new("ssh-keygen");
            keygen.arg("-q").arg("-s").arg(at(authority)).args(["-I", "lab"]).args(options);
            run_tool(keygen.arg(key))
        };
        sign("users-ca", &["-n", "root"], &at("certified.pub"))?;
        let host = at("host.pub");
        fs::write(&host, ssh.ok("cat /etc/ssh/ssh_host_ed25519_key.pub")?)?;
        sign("hosts-ca", &["-h", "-n", "127.0.0.1"], &host)?;
        let read = |name: &str| fs::read_to_string(at(name)).context("reading a key");
        let put = |path: &str, text: &str| ssh.ok_given(&format!("cat > {path}"), text);
        put("/etc/ssh/users-ca.pub", &read("users-ca.pub")?)?;
        put("/etc/ssh/ssh_host_ed25519_key-cert.pub", &read("host-cert.pub")?)?;
        put("/etc/ssh/sshd_config.d/00-logins.conf", SERVER)?;
        ssh.ok_given("chpasswd", &format!("root:{}\n", steps::PASSWORD))?;
        ssh.ok("sshd -t && systemctl reload ssh")?;
        let began = Instant::now();
        while ssh.answers(RELOAD).is_err() {
            ensure!(began.elapsed() < RELOAD, "the machine's sshd does not come back");
        }
        fs::write(at("authority"), format!("@cert-authority * {}", read("hosts-ca.pub")?))?;
        let changed = format!("[127.0.0.1]:{} {}", ssh.port(), read("uncertified.pub")?);
        fs::write(at("changed"), changed)?;
        Ok(Keys {
            certified: at("certified"),
            uncertified: at("uncertified"),
            authority: at("authority"),
            changed: at("changed"),
        })
    }

    /// Writes a client's configuration: the machine behind the server `way`, and from the machine itself
    /// its own loopback address.
    fn config(&self, files: &steps::Files, ssh: &Ssh, way: &Sshd, key: &Path) -> Result<String> {
        let known = fs::read_to_string(ssh.known_hosts())?;
        let (_, machine) = known.split_once(' ').context("the machine's host key")?;
        let all = files.path("all-known");
        let of_way = fs::read_to_string(way.known_hosts(way.port())?)?;
        fs::write(&all, format!("{of_way}{known}[::1] {machine}::1 {machine}"))?;
        let config = files.path("config");
        let text = format!(
            "Host way\n HostName 127.0.0.1\n Port {}\n IdentityFile {}\n\
             Host behind\n HostName 127.0.0.1\n Port {}\n ProxyJump way\n IdentityFile {key}\n\
             Host ::1\n ProxyJump behind\n IdentityFile {key}\n\
             Host *\n User root\n IdentitiesOnly yes\n UserKnownHostsFile {}\n",
            way.port(),
            way.key().display(),
            ssh.port(),
            all.display(),
            key = key.display(),
        );
        fs::write(&config, text)?;
        Ok(config.display().to_string())
    }
}

/// An ssh-agent with one key.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn with(socket: &Path, key: &Path) -> Result<Agent> {
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting ssh-agent: install openssh-client")?;
        let agent = Agent { child, socket: socket.to_owned() };
        let began = Instant::now();
        while !socket.exists() {
            ensure!(began.elapsed() < Duration::from_secs(10), "ssh-agent does not start");
            thread::sleep(Duration::from_millis(20));
        }
        run_tool(Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", socket))?;
        Ok(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
