//! A private root with the peers, a network of its own, fresh file systems.
//!
//! The bench moves itself into mount and network namespaces of its own, so that whatever happens
//! nothing stays mounted and no interface is left. The receiving end is a second network
//! namespace, joined by a veth pair; both ends see the same files.

use super::Regime;
use super::link::Link;
use crate::keystone::Keystone;
use crate::run::run;
use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The receiving end's address.
pub const TARGET: &str = "10.77.0.2";
/// The sending end's address.
pub const SOURCE: &str = "10.77.0.1";
/// Size of the receiving file system, in bytes.
const TARGET_SIZE: u64 = 5 << 30;

/// Where everything runs.
#[derive(Debug)]
pub struct Place {
    work: PathBuf,
    root: PathBuf,
    sshd: Child,
    http: Option<Child>,
    image: PathBuf,
    mounted: RefCell<bool>,
    link: Option<Link>,
}

impl Place {
    /// Makes it. `work` keeps the closure and the file system's image between runs.
    ///
    /// # Errors
    /// Not root, or something can't be mounted or started.
    pub fn make(work: &Path, peers: &Path, keystone: &Keystone) -> Result<Place> {
        ensure!(nix::unistd::geteuid().is_root(), "the bench mounts file systems: run it as root");
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .context("making namespaces of its own")?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        for name in ["source", "target", "bin", "ssh", "run", "cache"] {
            fs::create_dir_all(work.join(name))?;
        }
        let run_dir = work.join("run");
        mount(Some("tmpfs"), &run_dir, Some("tmpfs"), MsFlags::empty(), none)?;
        for name in ["upper", "overlay", "root"] {
            fs::create_dir(run_dir.join(name))?;
        }
        let layers = format!(
            "lowerdir={},upperdir={d}/upper,workdir={d}/overlay",
            peers.display(),
            d = run_dir.display()
        );
        let root = run_dir.join("root");
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
            .context("mounting the root with the peers")?;
        for (from, to) in [("/proc", "proc"), ("/dev", "dev"), ("/sys", "sys")] {
            mount(Some(from), &root.join(to), none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
        }
        fs::create_dir_all(root.join("bench"))?;
        for name in ["source", "bin", "ssh", "cache"] {
            let at = root.join("bench").join(name);
            fs::create_dir_all(&at)?;
            mount(Some(&work.join(name)), &at, none, MsFlags::MS_BIND, none)?;
        }
        fs::create_dir_all(root.join("bench/target"))?;
        fs::create_dir_all(root.join("run/sshd"))?;
        for (from, to) in [(&keystone.controller, "keystone"), (&keystone.agent, "keystone-agent")]
        {
            fs::copy(from, work.join("bin").join(to))
                .with_context(|| format!("copying {}", from.display()))?;
        }
        // As a live system has it.
        let libexec = root.join("usr/libexec/keystone");
        fs::create_dir_all(&libexec)?;
        std::os::unix::fs::symlink("/bench/bin/keystone-agent", libexec.join("keystone-agent"))?;
        fs::create_dir_all(root.join("etc/nix"))?;
        fs::write(
            root.join("etc/nix/nix.conf"),
            "build-users-group =\nsandbox = false\nsubstituters =\nrequire-sigs = false\n\
             experimental-features = nix-command\n",
        )?;
        keys(&work.join("ssh"))?;
        let ssh = root.join("root/.ssh");
        fs::create_dir_all(&ssh)?;
        fs::write(
            ssh.join("config"),
            format!(
                "Host target\n HostName {TARGET}\n User root\n IdentityFile /bench/ssh/id\n \
                 StrictHostKeyChecking yes\n UserKnownHostsFile /bench/ssh/known_hosts\n \
                 HostKeyAlias target\n"
            ),
        )?;
        let sshd = sshd(&root)?;
        let image = work.join("target.ext4");
        let mut place = Place {
            work: work.to_owned(),
            root,
            sshd,
            http: None,
            image,
            mounted: RefCell::new(false),
            link: None,
        };
        place.line(Regime::Unshaped, None)?;
        Ok(place)
    }

    /// A shell command line that runs inside the root, at the sending end.
    pub fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("chroot");
        command.arg(&self.root).args(["/usr/bin/env", "-i"]).args([
            "PATH=/bench/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
            "bash",
            "-eo",
            "pipefail",
            "-c",
            script,
        ]);
        command
    }

    /// Where a path of the root lies for this program.
    pub fn at(&self, inside: &str) -> PathBuf {
        self.root.join(inside.trim_start_matches('/'))
    }

    /// What is kept between runs.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The SSH server's process id.
    pub fn sshd(&self) -> u32 {
        self.sshd.id()
    }

    /// A new, empty file system at `/bench/target`.
    ///
    /// # Errors
    /// mkfs or mount failed.
    pub fn fresh_target(&self) -> Result<()> {
        self.unmount_target()?;
        if !self.image.exists() {
            let file = fs::File::create(&self.image)?;
            file.set_len(TARGET_SIZE)?;
        }
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"])
            .arg(&self.image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(self.at("/bench/target")))?;
        *self.mounted.borrow_mut() = true;
        run(&mut Command::new("sync"))?;
        Ok(())
    }

    fn unmount_target(&self) -> Result<()> {
        if self.mounted.replace(false) {
            run(Command::new("umount").arg(self.at("/bench/target")))?;
        }
        Ok(())
    }

    /// Joins the two ends by a line of that kind, in the place of the one before, with that congestion
    /// control of TCP or the kernel's own.
    ///
    /// # Errors
    /// The kernel can't.
    pub fn line(&mut self, regime: Regime, congestion: Option<&str>) -> Result<()> {
        let ip = |words: &str| run(Command::new("ip").args(words.split_whitespace()));
        self.link = None;
        // A device of the line before goes when its threads see that it ended.
        let began = Instant::now();
        while crate::run::text(Command::new("ip").args(["-o", "link"]))?.contains(" source") {
            let _ = Command::new("ip").args(["link", "delete", "source"]).output();
            ensure!(began.elapsed() < Duration::from_secs(10), "the old line does not go away");
            std::thread::sleep(Duration::from_millis(50));
        }
        match regime.quality() {
            Some(quality) => self.link = Some(Link::join(["source", "target"], quality)?),
            None => drop(ip("link add source type veth peer name target")?),
        }
        // As a property of the route anything the kernel has can be taken.
        let control = |device: &str| {
            congestion.map(|name| format!("route change 10.77.0.0/24 dev {device} congctl {name}"))
        };
        let pid = self.sshd.id();
        ip(&format!("link set target netns {pid}"))?;
        ip("link set lo up")?;
        ip(&format!("address add {SOURCE}/24 dev source"))?;
        ip("link set source up")?;
        if let Some(control) = control("source") {
            ip(&control)?;
        }
        let inside = format!(
            "ip link set lo up; ip address add {TARGET}/24 dev target && ip link set target up{}",
            control("target").map_or_else(String::new, |control| format!(" && ip {control}"))
        );
        run(Command::new("nsenter")
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .args(["sh", "-c", &inside]))?;
        if let Some(rate) = regime.token_bucket() {
            ip("link set dev source txqueuelen 1000")?;
            run(Command::new("tc")
                .args(["qdisc", "add", "dev", "source", "root", "tbf", "rate"])
                .arg(rate)
                .args(["burst", "256kb", "latency", "50ms"]))?;
        }
        self.wait_for_sshd()
    }

    /// Serves `/bench/cache` on port 8080 of the sending end.
    ///
    /// # Errors
    /// The server can't be started.
    pub fn serve_cache(&mut self) -> Result<()> {
        if self.http.is_none() {
            // One process: a worker would outlive a master that is killed.
            let config = "daemon off; master_process off; error_log /dev/null; pid /run/nginx-bench.pid;\n\
                events { worker_connections 256; }\n\
                http { access_log off; sendfile on; tcp_nodelay on; keepalive_requests 100000;\n\
                server { listen 8080; root /bench/cache; } }\n";
            fs::write(self.at("/etc/nginx-bench.conf"), format!("user root;\n{config}"))?;
            let child =
                self.shell("exec nginx -c /etc/nginx-bench.conf").stdin(Stdio::null()).spawn()?;
            self.http = Some(child);
        }
        Ok(())
    }

    fn wait_for_sshd(&self) -> Result<()> {
        let began = Instant::now();
        loop {
            let tried = self.shell("ssh -o ConnectTimeout=2 target true").output()?;
            if tried.status.success() {
                return Ok(());
            }
            ensure!(
                began.elapsed() < Duration::from_secs(20),
                "the bench's sshd does not let us in: {}",
                String::from_utf8_lossy(&tried.stderr)
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for child in [Some(&mut self.sshd), self.http.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.unmount_target();
    }
}

/// Login and host keys, and who they belong to.
fn keys(dir: &Path) -> Result<()> {
    for name in ["id", "host"] {
        if !dir.join(name).exists() {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                .arg(dir.join(name)))?;
        }
    }
    fs::copy(dir.join("id.pub"), dir.join("authorized_keys"))?;
    let host = fs::read_to_string(dir.join("host.pub"))?;
    fs::write(dir.join("known_hosts"), format!("target {host}{TARGET} {host}"))?;
    fs::write(
        dir.join("sshd_config"),
        "HostKey /bench/ssh/host\nAuthorizedKeysFile /bench/ssh/authorized_keys\nUsePAM no\n\
         StrictModes no\nPidFile none\nPermitRootLogin yes\nLogLevel ERROR\nMaxStartups 100\n\
         Subsystem sftp internal-sftp\nSetEnv PATH=/bench/bin:/usr/sbin:/usr/bin:/sbin:/bin\n",
    )?;
    Ok(())
}

/// The receiving end: an sshd in a network namespace of its own, without a line yet.
fn sshd(root: &Path) -> Result<Child> {
    let sshd = Command::new("unshare")
        .args(["--net", "--", "chroot"])
        .arg(root)
        .args(["/usr/sbin/sshd", "-D", "-e", "-f", "/bench/ssh/sshd_config"])
        .stdin(Stdio::null())
        .spawn()
        .context("starting the bench's sshd")?;
    // It is in its namespace once that differs from ours.
    let ours = fs::read_link("/proc/self/ns/net")?;
    let theirs = format!("/proc/{}/ns/net", sshd.id());
    let began = Instant::now();
    while fs::read_link(&theirs).is_ok_and(|ns| ns == ours) {
        ensure!(began.elapsed() < Duration::from_secs(10), "unshare does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(sshd)
}
