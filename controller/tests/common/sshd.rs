//! A real sshd on loopback, with its own keys and configuration, ended by its own process id.

use super::{run, tool};
use keystone_controller::ssh::{
    ConnectOptions, Destination, HostKeyPolicy, Identities, NoPrompt, PublicKey,
};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub struct Sshd {
    child: Child,
    pub dir: TempDir,
    pub port: u16,
    setup: Option<String>,
}

impl Sshd {
    /// With SFTP, ed25519 and ECDSA host keys.
    pub fn start() -> Self {
        Self::with(Some("internal-sftp"), &["ed25519", "ecdsa"])
    }

    pub fn with(sftp: Option<&str>, host_keys: &[&str]) -> Self {
        let (dir, port) = Self::prepare(host_keys);
        Self::on(dir, port, sftp, host_keys, None)
    }

    /// With lines of its configuration, which win; in a mount namespace after `setup`, if that
    /// is given.
    pub fn configured(lines: &str, setup: Option<&str>) -> Self {
        let (dir, port) = Self::prepare(&["ed25519", "ecdsa"]);
        // A user other than root has to get at the authorized keys.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let lines = lines.replace("DIR", &dir.path().display().to_string());
        std::fs::write(dir.path().join("lines"), lines).unwrap();
        Self::on(dir, port, Some("internal-sftp"), &["ed25519", "ecdsa"], setup)
    }

    fn prepare(host_keys: &[&str]) -> (TempDir, u16) {
        // Where no test mounts anything.
        let dir = tempfile::tempdir_in("/var/cache").unwrap();
        for kind in host_keys {
            keygen(&dir.path().join(format!("host_{kind}")), kind, "");
        }
        keygen(&dir.path().join("id"), "ed25519", "");
        std::fs::copy(dir.path().join("id.pub"), dir.path().join("authorized_keys")).unwrap();
        // A free port: taken and given back; sshd itself can't be asked for one.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        (dir, port)
    }

    /// In a mount namespace of its own, after the POSIX sh lines of `setup`, to which `$SSHD_DIR`
    /// is the directory with its keys.
    pub fn in_namespace(setup: &str) -> Self {
        Self::in_namespace_with(setup, Some("internal-sftp"))
    }

    pub fn in_namespace_with(setup: &str, sftp: Option<&str>) -> Self {
        tool("unshare", "util-linux");
        let (dir, port) = Self::prepare(&["ed25519"]);
        Self::on(dir, port, sftp, &["ed25519"], Some(setup))
    }

    fn on(
        dir: TempDir,
        port: u16,
        sftp: Option<&str>,
        host_keys: &[&str],
        setup: Option<&str>,
    ) -> Self {
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut config = std::fs::read_to_string(dir.path().join("lines")).unwrap_or_default();
        config.push_str(&format!(
            "ListenAddress 127.0.0.1\nPort {port}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             AuthorizedKeysFile {}\nLogLevel ERROR\n",
            at("authorized_keys")
        ));
        for kind in host_keys {
            config.push_str(&format!("HostKey {}\n", at(&format!("host_{kind}"))));
        }
        if let Some(sftp) = sftp {
            config.push_str(&format!("Subsystem sftp {sftp}\n"));
        }
        std::fs::write(dir.path().join("sshd_config"), config).unwrap();
        let child = spawn(dir.path(), setup);
        let mut sshd = Sshd { child, dir, port, setup: setup.map(str::to_owned) };
        sshd.wait();
        sshd
    }

    fn wait(&mut self) {
        let started = Instant::now();
        // It listens at one more address at most.
        let own = std::fs::read_to_string(self.dir.path().join("lines")).unwrap_or_default();
        let own =
            own.lines().find_map(|line| line.strip_prefix("ListenAddress ")).unwrap_or("127.0.0.1");
        while TcpStream::connect(("127.0.0.1", self.port)).is_err()
            && TcpStream::connect((own, self.port)).is_err()
        {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("sshd ended with {status}: {}", log());
            }
            assert!(started.elapsed() < Duration::from_secs(20), "sshd does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn destination(&self) -> Destination {
        let user = run(Command::new("id").arg("-un")).trim().to_owned();
        Destination { user, host: "127.0.0.1".into(), port: self.port }
    }

    pub fn host_key(&self, kind: &str) -> PublicKey {
        public_key(&self.dir.path().join(format!("host_{kind}.pub")))
    }

    /// Of the process that listens.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn key(&self) -> PathBuf {
        self.dir.path().join("id")
    }

    /// With the sshd's login key and its ed25519 host key pinned.
    pub fn options(&self) -> ConnectOptions {
        let host_key = HostKeyPolicy::exactly(&self.host_key("ed25519"));
        ConnectOptions::direct(host_key, identities(&[self.key()]), Duration::from_secs(20))
    }

    /// Ends this one and starts it again, so that it reads its files again.
    pub fn restart(&mut self) {
        self.end();
        self.child = spawn(self.dir.path(), self.setup.as_deref());
        self.wait();
    }

    /// Puts lines before its configuration, for its next start: the first of a kind wins.
    pub fn configure(&mut self, lines: &str) {
        let file = self.dir.path().join("sshd_config");
        let config = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{lines}{config}")).unwrap();
    }

    /// Leaves a host key out, at its next start.
    pub fn without_host_key(&mut self, kind: &str) {
        let file = self.dir.path().join("sshd_config");
        let line = format!("HostKey {}\n", self.dir.path().join(format!("host_{kind}")).display());
        let config = std::fs::read_to_string(&file).unwrap();
        assert!(config.contains(&line), "{config}");
        std::fs::write(&file, config.replace(&line, "")).unwrap();
    }

    /// Ends this one and starts it again in another namespace, after this setup.
    pub fn boot_as(&mut self, setup: &str) {
        self.setup = Some(setup.to_owned());
        self.restart();
    }

    /// Ends this one and starts another with new host keys on the same port.
    pub fn with_new_host_keys(mut self) -> Self {
        self.end();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        let port = self.port;
        drop(self);
        let host = dir.path().join("host_ed25519");
        std::fs::remove_file(&host).unwrap();
        std::fs::remove_file(host.with_extension("pub")).unwrap();
        keygen(&host, "ed25519", "");
        Self::on(dir, port, Some("internal-sftp"), &["ed25519"], None)
    }

    /// Ends the one that listens; connections go on.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// sshd with the configuration in `dir`.
fn spawn(dir: &Path, setup: Option<&str>) -> Child {
    // Where sshd wants to chroot its unprivileged child.
    std::fs::create_dir_all("/run/sshd").unwrap();
    let log = std::fs::File::create(dir.join("log")).unwrap();
    let sshd = tool("sshd", "openssh-server").display().to_string();
    let mut command = match setup {
        None => Command::new(sshd),
        Some(setup) => {
            let script = format!("{setup} && mkdir -p /run/sshd && exec {sshd} \"$@\"");
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "/bin/sh", "-c", &script, "sh"]);
            command
        }
    };
    command
        .env("SSHD_DIR", dir)
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end();
    }
}

pub fn keygen(file: &Path, kind: &str, passphrase: &str) {
    run(Command::new(tool("ssh-keygen", "openssh-client"))
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "test", "-f"])
        .arg(file));
}

pub fn public_key(file: &Path) -> PublicKey {
    PublicKey::from_openssh(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Sets up a namespace with two users: `alice`, whose password is `wren under ivy`, and `bob`,
/// whose password is `staple`. Files of `/etc` that the rest of the setup writes are the
/// namespace's own; nothing stays on the machine. The words of a password do not stand together,
/// so that a test can look for it in every process's arguments.
pub fn with_people(rest: &str) -> String {
    for (name, package) in [("useradd", "passwd"), ("chpasswd", "passwd")] {
        tool(name, package);
    }
    let pam = "auth required pam_unix.so nodelay\\naccount required pam_unix.so\\n\
               session required pam_permit.so\\n";
    format!(
        "mount -t tmpfs none /run && mount -t tmpfs none /mnt && cp -a /etc /mnt/etc && \
         mount --bind /mnt/etc /etc && mount -t tmpfs none /home && \
         useradd -m -s /bin/sh alice && useradd -m -s /bin/sh bob && \
         printf 'alice:wren%sunder ivy\\nbob:staple\\n' ' ' | chpasswd && \
         for s in sshd sudo doas; do printf '{pam}' > /etc/pam.d/$s; done && \
         rm -rf /etc/sudoers.d /etc/doas.conf && {rest}"
    )
}

/// These key files and no agent.
pub fn identities(files: &[PathBuf]) -> Identities {
    Identities::new(files, Arc::new(NoPrompt)).with_agent(None)
}
