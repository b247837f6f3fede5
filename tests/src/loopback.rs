//! A copy's two ends on this computer: a private sshd, a file system of its own, and a line
//! between them that can be cut, and that can flip a bit.

use crate::keystone::Keystone;
use crate::process;
use crate::run::{run, text};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An sshd on loopback that lets one key in.
#[derive(Debug)]
pub struct Sshd {
    dir: TempDir,
    child: Child,
    port: u16,
}

impl Sshd {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// OpenSSH's programs are missing, or it does not start.
    pub fn start() -> Result<Sshd> {
        let dir = tempfile::tempdir()?;
        for name in ["id", "host"] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                .arg(dir.path().join(name)))?;
        }
        fs::copy(dir.path().join("id.pub"), dir.path().join("authorized_keys"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let at = dir.path().display();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/authorized_keys\n\
             UsePAM no\nStrictModes no\nPidFile none\nPermitRootLogin yes\nLogLevel ERROR\n\
             MaxStartups 100\nSubsystem sftp internal-sftp\n"
        );
        fs::write(dir.path().join("config"), config)?;
        fs::create_dir_all("/run/sshd")?;
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(dir.path().join("config"))
            .stdin(Stdio::null())
            .spawn()
            .context("starting sshd: apt-get install openssh-server")?;
        let sshd = Sshd { dir, child, port };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(20), "sshd does not start");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(sshd)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The key that it lets in.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("id")
    }

    /// A file of known hosts that knows it at `port`.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn known_hosts(&self, port: u16) -> Result<PathBuf> {
        let host = fs::read_to_string(self.dir.path().join("host.pub"))?;
        let path = self.dir.path().join(format!("known_hosts.{port}"));
        fs::write(&path, format!("[127.0.0.1]:{port} {host}"))?;
        Ok(path)
    }

    /// The programs named `name` that run in its sessions.
    pub fn running(&self, name: &str) -> Vec<u32> {
        let ours = |pid: u32| process::ancestor(pid, &[self.child.id()]).is_some();
        process::all().filter(|pid| process::is_named(*pid, name) && ours(*pid)).collect()
    }

    /// Kills them; says how many.
    ///
    /// # Errors
    /// One has ended meanwhile.
    pub fn kill(&self, name: &str) -> Result<usize> {
        let running = self.running(name);
        for pid in &running {
            kill(Pid::from_raw(*pid as i32), Signal::SIGKILL)?;
        }
        Ok(running.len())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file system in a file, mounted.
#[derive(Debug)]
pub struct Disk {
    dir: TempDir,
}

impl Disk {
    /// An empty ext4 of that many MiB.
    ///
    /// # Errors
    /// It can't be made or mounted.
    pub fn new(mib: u64) -> Result<Disk> {
        let dir = tempfile::tempdir()?;
        let image = dir.path().join("image");
        fs::File::create(&image)?.set_len(mib << 20)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        fs::create_dir(dir.path().join("root"))?;
        let disk = Disk { dir };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let image = self.dir.path().join("image");
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(self.root())).map(drop)
    }

    /// The power fails: what is not on the disk by now never will be. Nothing of it can be read or
    /// written until [`Disk::power_on`].
    ///
    /// # Errors
    /// xfs_io is missing, or the kernel can't.
    pub fn power_off(&self) -> Result<()> {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(self.root()))
            .map(drop)
            .context("xfs_io (apt-get install xfsprogs)")
    }

    /// Mounts it again, once who had files open is gone.
    ///
    /// # Errors
    /// They do not go, or what is left can't be mounted.
    pub fn power_on(&self) -> Result<()> {
        let began = Instant::now();
        while let Err(busy) = run(Command::new("umount").arg(self.root())) {
            ensure!(began.elapsed() < Duration::from_secs(20), "it stays in use: {busy:#}");
            thread::sleep(Duration::from_millis(100));
        }
        self.mount()
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(self.root())) {
            eprintln!("{error:#}");
        }
    }
}

/// A TCP line to an sshd that is cut where it is told to.
#[derive(Debug)]
pub struct Line {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: u16,
    /// Bytes that went to the sshd.
    sent: AtomicU64,
    /// After how many of them the line is cut next.
    cuts: Mutex<VecDeque<u64>>,
    /// In which of them a bit is flipped next.
    flips: Mutex<VecDeque<u64>>,
    /// Bytes per second, if it is not as fast as it can be.
    rate: AtomicU64,
    stop: AtomicBool,
}

impl Line {
    /// A line to `sshd`.
    ///
    /// # Errors
    /// No port is free.
    pub fn to(sshd: &Sshd) -> Result<Line> {
        Line::to_port(sshd.port)
    }

    /// A line to a port of loopback.
    ///
    /// # Errors
    /// No port is free.
    pub fn to_port(to: u16) -> Result<Line> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            to,
            sent: AtomicU64::new(0),
            cuts: Mutex::default(),
            flips: Mutex::default(),
            rate: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let line = Arc::clone(&shared);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if line.stop.load(Ordering::SeqCst) {
                    return;
                }
                let line = Arc::clone(&line);
                thread::spawn(move || line.join(near));
            }
        });
        Ok(Line { port, shared })
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Bytes that it has carried to the sshd.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Cuts it when it has carried so many, each a total since it was made, in order.
    pub fn cut_at(&self, totals: impl IntoIterator<Item = u64>) {
        *lock(&self.shared.cuts) = totals.into_iter().collect();
    }

    /// Flips a bit in each of these bytes, each counted since it was made, in order.
    pub fn flip_at(&self, totals: impl IntoIterator<Item = u64>) {
        *lock(&self.shared.flips) = totals.into_iter().collect();
    }

    /// How many cuts and flips are left.
    pub fn left(&self) -> usize {
        lock(&self.shared.cuts).len() + lock(&self.shared.flips).len()
    }

    /// Cuts it now.
    pub fn cut(&self) {
        lock(&self.shared.cuts).push_front(0);
    }

    /// Makes it slower: bytes per second, 0 for as fast as it can be.
    pub fn slow_down(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::SeqCst);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn lock(totals: &Mutex<VecDeque<u64>>) -> MutexGuard<'_, VecDeque<u64>> {
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn join(&self, near: TcpStream) {
        let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.to)) else { return };
        let both = || {
            let _ = near.shutdown(Shutdown::Both);
            let _ = far.shutdown(Shutdown::Both);
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut buffer = [0; 16 << 10];
                while let Ok(length @ 1..) = (&far).read(&mut buffer) {
                    if (&near).write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
                both();
            });
            let mut buffer = [0; 16 << 10];
            while let Ok(length @ 1..) = (&near).read(&mut buffer) {
                let (pass, cut) = self.pass(&mut buffer[..length]);
                if (&far).write_all(&buffer[..pass as usize]).is_err() || cut {
                    break;
                }
                let rate = self.rate.load(Ordering::SeqCst);
                if rate > 0 {
                    thread::sleep(Duration::from_secs_f64(pass as f64 / rate as f64));
                }
            }
            both();
        });
    }

    /// How many of the bytes pass, and whether the line is cut then.
    fn pass(&self, bytes: &mut [u8]) -> (u64, bool) {
        let length = bytes.len() as u64;
        let mut cuts = lock(&self.cuts);
        let sent = self.sent.load(Ordering::SeqCst);
        let mut flips = lock(&self.flips);
        while let Some(at) = flips.front().filter(|at| **at < sent + length).copied() {
            flips.pop_front();
            if let Some(byte) = at.checked_sub(sent).and_then(|at| bytes.get_mut(at as usize)) {
                *byte ^= 1 << (at % 8);
            }
        }
        let cut = cuts.front().is_some_and(|at| *at < sent + length);
        let pass = match cut {
            true => cuts.pop_front().unwrap_or(sent).saturating_sub(sent),
            false => length,
        };
        self.sent.fetch_add(pass, Ordering::SeqCst);
        (pass, cut)
    }
}

/// A closure in a store below a directory, made for tests: one large file, thousands of small
/// ones, odd names. Registered by Nix.
#[derive(Debug)]
pub struct Source {
    dir: TempDir,
    names: Vec<String>,
}

/// `keystone copy` of a source's top over a line to a disk.
///
/// # Errors
/// The file of known hosts can't be written.
pub fn copy(
    keystone: &Keystone,
    (sshd, line): (&Sshd, &Line),
    source: &Source,
    disk: &Disk,
) -> Result<Command> {
    let mut command = Command::new(&keystone.controller);
    command
        .args(["copy", "root@127.0.0.1", "--json", "--port", &line.port().to_string()])
        .arg("-i")
        .arg(sshd.key())
        .arg("--known-hosts")
        .arg(sshd.known_hosts(line.port())?)
        .arg("--agent")
        .arg(&keystone.agent)
        .arg("--root")
        .arg(disk.root())
        .arg("--store")
        .arg(source.root())
        .args(["--store-path", &source.toplevel()])
        .stdin(Stdio::null());
    Ok(command)
}

impl Source {
    /// Makes one of about that many MiB.
    ///
    /// # Errors
    /// It can't be written, or `nix-bin` is missing.
    pub fn make(mib: usize) -> Result<Source> {
        Source::make_version(mib, 0)
    }

    /// Makes a version of it: other hashes in the names, and from the second on a few bytes inserted
    /// in the large file and in one small one of 20.
    ///
    /// # Errors
    /// As [`Source::make`].
    pub fn make_version(mib: usize, version: u8) -> Result<Source> {
        let dir = tempfile::tempdir()?;
        let store = dir.path().join("nix/store");
        fs::create_dir_all(&store)?;
        let name = |n: char, what: &str| format!("{}-{what}", n.to_string().repeat(32));
        let mut names = b"123456789abcdfghijklmnpq"[usize::from(version) * 4..].iter().copied();
        let (big, tree, text, top) = ["big", "tree", "text", "top"]
            .map(|what| names.next().map_or_else(String::new, |n| name(char::from(n), what)))
            .into();
        let inserted = format!("version {version}");
        let inserted = if version == 0 { "" } else { &inserted }.as_bytes();
        let half = (mib << 20) / 2;
        let mut noise = Noise(0x2545_f491_4f6c_dd1d);
        let mut contents = noise.bytes(half);
        contents.splice(half / 3..half / 3, inserted.iter().copied());
        fs::write(store.join(&big), contents)?;
        let per_file = half / 3000;
        for n in 0..3000 {
            let at = store.join(&tree).join(format!("d{}", n % 50)).join(format!("e{}", n % 3));
            fs::create_dir_all(&at)?;
            let mut contents = noise.bytes(per_file + n % 100);
            if n % 20 == 0 {
                contents.splice(per_file / 2..per_file / 2, inserted.iter().copied());
            }
            fs::write(at.join(format!("file {n}")), contents)?;
        }
        fs::create_dir(store.join(&tree).join("empty"))?;
        std::os::unix::fs::symlink("/nowhere", store.join(&tree).join("link"))?;
        let line = "a line that is repeated, number ".repeat(30);
        // Little of it, so that how much is sent hardly depends on whether it is compressed.
        let lines: String = (0..half / 20 / line.len()).map(|n| format!("{line}{n}\n")).collect();
        fs::write(store.join(&text), lines)?;
        fs::create_dir(store.join(&top))?;
        std::os::unix::fs::symlink(format!("/nix/store/{tree}"), store.join(&top).join("tree"))?;
        let source = Source { dir, names: vec![big, tree, text, top] };
        source.register()?;
        Ok(source)
    }

    /// Makes one with a single file of that many MiB and a byte, in which every 64 MiB one can't be
    /// compressed, and the rest is zeros.
    ///
    /// # Errors
    /// As [`Source::make`].
    pub fn with_one_file_of(mib: u64) -> Result<Source> {
        let dir = tempfile::tempdir()?;
        let store = dir.path().join("nix/store");
        fs::create_dir_all(&store)?;
        let [file, top] = ["1", "2"].map(|n| n.repeat(32)).map(|hash| format!("{hash}-large"));
        let mut contents = fs::File::create(store.join(&file))?;
        contents.set_len((mib << 20) + 1)?;
        let noise = Noise(0x2545_f491_4f6c_dd1d).bytes(1 << 20);
        for at in (0..mib).step_by(64) {
            contents.seek(SeekFrom::Start(at << 20))?;
            contents.write_all(&noise)?;
        }
        fs::create_dir(store.join(&top))?;
        std::os::unix::fs::symlink(format!("/nix/store/{file}"), store.join(&top).join("file"))?;
        let source = Source { dir, names: vec![file, top] };
        source.register()?;
        Ok(source)
    }

    fn register(&self) -> Result<()> {
        let mut dump = String::new();
        for (i, name) in self.names.iter().enumerate() {
            let physical = self.root().join("nix/store").join(name);
            let hash = text(Command::new("nix-hash").args(["--type", "sha256"]).arg(&physical))?;
            let size = text(
                Command::new("sh").args(["-c", "nix-store --dump \"$0\" | wc -c"]).arg(&physical),
            )?;
            let references = if i + 1 == self.names.len() { &self.names[..] } else { &[] };
            dump.push_str(&format!(
                "/nix/store/{name}\n{}\n{}\n\n{}\n",
                hash.trim(),
                size.trim(),
                references.len()
            ));
            for reference in references {
                dump.push_str(&format!("/nix/store/{reference}\n"));
            }
        }
        let file = self.root().join("registration");
        fs::write(&file, dump)?;
        nix_store(&self.root(), &["--load-db"], Some(&file)).map(drop)
    }

    /// The store's root.
    pub fn root(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Its top.
    pub fn toplevel(&self) -> String {
        format!("/nix/store/{}", self.names.last().map_or("", String::as_str))
    }

    /// Fails unless the store below `root` is the same, whole, and nothing else is in it.
    ///
    /// # Errors
    /// It is not.
    pub fn judge(&self, root: &Path) -> Result<()> {
        self.judge_beside(root, &[])
    }

    /// The same of a store in which the paths of others are too, unregistered.
    ///
    /// # Errors
    /// It is not.
    pub fn judge_beside(&self, root: &Path, others: &[&Source]) -> Result<()> {
        let dump = |root: &Path| nix_store(root, &["--dump-db"], None);
        ensure!(dump(root)? == dump(&self.root())?, "the databases differ");
        nix_store(root, &["--verify", "--check-contents"], None)?;
        // Rows of what is not there are dropped by that.
        ensure!(dump(root)? == dump(&self.root())?, "nix-store --verify found something");
        let mut names: Vec<String> = fs::read_dir(root.join("nix/store"))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        let of_others = |name: &String| others.iter().any(|other| other.names.contains(name));
        names.retain(|name| name != ".links" && !of_others(name));
        names.sort();
        ensure!(names == self.names, "the store has {names:?}");
        ensure!(!root.join("nix/var/nix/.keystone-journal").exists(), "the journal was left");
        Ok(())
    }
}

fn nix_store(root: &Path, arguments: &[&str], input: Option<&Path>) -> Result<String> {
    let input = input.unwrap_or(Path::new("/dev/null"));
    text(
        Command::new("sh")
            .args(["-c", "input=$1; shift; exec nix-store \"$@\" < \"$input\"", "sh"])
            .arg(input)
            .args(["--store", &format!("local?root={}", root.display())])
            .args(["--option", "build-users-group", ""])
            .args(arguments)
            .env("HOME", "/homeless-shelter"),
    )
}

/// Bytes that do not compress.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = length.div_ceil(8);
        let mut out: Vec<u8> = (0..words).flat_map(|_| self.next().to_le_bytes()).collect();
        out.truncate(length);
        out
    }
}

/// `count` numbers below `limit`, in order, from a seed.
pub fn offsets(seed: u64, count: usize, limit: u64) -> Vec<u64> {
    let mut noise = Noise(seed | 1);
    let mut offsets: Vec<u64> = (0..count).map(|_| noise.next() % limit).collect();
    offsets.sort_unstable();
    offsets
}
