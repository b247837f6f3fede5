//! Programs of the running system: those that make what no maintained library makes.
//!
//! | program | Debian package | for |
//! |---|---|---|
//! | `mkfs.ext2` to `mkfs.ext4`, `mkfs.xfs`, `mkfs.btrfs`, `mkfs.f2fs`, `mkfs.bcachefs` | see [`package`] | file systems |
//! | `lvm` | lvm2 | volume groups |
//! | `mdadm` | mdadm | software RAID |
//! | `btrfs` | btrfs-progs | subvolumes with arguments |
//! | `bash` | | hooks |
//!
//! A program gets a clean environment and no terminal; no secret is ever among its arguments. What
//! it says is handed on line by line while it runs. It is ended, with all that it started, when
//! it takes longer than its bound.

use crate::block::Timeout;
use crate::lines::Lines;
use keystone_planner::programs::{DIRECTORIES, package};
use keystone_protocol::secret::Secret;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a program may take, unless it is told otherwise.
const BOUND: Duration = Duration::from_secs(600);

/// For how long its output is still read after a program has ended: what it left running may
/// hold the pipe open for ever.
const GRACE: Duration = Duration::from_millis(300);

/// How much of what it said is kept for its error, in bytes.
const KEPT: usize = 16 << 10;

/// A program is missing or failed.
#[derive(Debug, Error)]
pub enum ToolError {
    /// There is none.
    #[error(
        "the running system has no {name}: it is neither in PATH nor in {}. Boot an installer \
         that has it{}",
        DIRECTORIES.join(", "),
        in_package(name)
    )]
    Missing {
        /// Its name.
        name: String,
    },
    /// It can't be run.
    #[error("running {}", path.display())]
    Run {
        /// Its path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{} failed ({status}): {output}", path.display())]
    Failed {
        /// Its path.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// It did not end, and was ended.
    #[error(transparent)]
    Timeout(#[from] Timeout),
    /// The execution was asked to stop, and it was ended.
    #[error("{} was stopped", .0.display())]
    Stopped(PathBuf),
}

fn in_package(name: &str) -> String {
    package(name).map(|package| format!(" ({package})")).unwrap_or_default()
}

/// Finds a program in `PATH` and [`DIRECTORIES`].
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    find_in(name, directories.chain(DIRECTORIES.map(PathBuf::from)))
}

/// As [`find`]; an error if there is none.
pub fn need(name: &str) -> Result<PathBuf, ToolError> {
    find(name).ok_or_else(|| ToolError::Missing { name: name.to_owned() })
}

fn find_in(name: &str, mut directories: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    directories.find_map(|dir| {
        let path = dir.join(name);
        let metadata = fs::metadata(&path).ok()?;
        (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(path)
    })
}

/// Takes a program's lines.
pub type Say<'a> = &'a mut dyn FnMut(&str);

/// A program about to run.
pub struct Run<'a> {
    path: PathBuf,
    command: Command,
    bound: Duration,
    input: Option<Secret>,
    stop: Option<&'a dyn Fn() -> bool>,
}

impl<'a> Run<'a> {
    /// With an environment of `PATH` and `LC_ALL=C`, no input and ten minutes.
    pub fn new(path: &Path) -> Self {
        let mut command = Command::new(path);
        command
            .env_clear()
            .env("PATH", search_path())
            .env("LC_ALL", "C")
            .current_dir("/")
            // A group of its own, so that it can be ended with all that it started.
            .process_group(0);
        Run { path: path.to_owned(), command, bound: BOUND, input: None, stop: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg<S: AsRef<OsStr>>(mut self, arg: S) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds to the environment.
    #[must_use]
    pub fn envs(mut self, variables: &BTreeMap<String, String>) -> Self {
        self.command.envs(variables);
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn bound(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// What it reads from its standard input; less than a pipe holds, 64 KiB.
    #[must_use]
    pub fn input(mut self, input: Secret) -> Self {
        self.input = Some(input);
        self
    }

    /// Ends it once `stop` says so.
    #[must_use]
    pub fn stopped_by(mut self, stop: &'a dyn Fn() -> bool) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Runs it to its end and returns what it said, or the last 16 KiB of that.
    pub fn run(self, say: Say<'_>) -> Result<String, ToolError> {
        let mut heard = Heard::new(say);
        let (out, err) = self.pipes()?;
        drop(out);
        let mut ears = [Ear::new(err.0, Hears::Words)];
        let writers = (err.1.try_clone().map_err(fail(&self.path))?, err.1);
        self.finish(writers, &mut ears, &mut heard)?;
        Ok(heard.end())
    }

    /// Runs it to its end and returns its standard output, all of it; what it says on standard
    /// error is handed on.
    pub fn output(self, say: Say<'_>) -> Result<String, ToolError> {
        let mut heard = Heard::new(say);
        let (out, err) = self.pipes()?;
        let mut ears = [Ear::new(err.0, Hears::Words), Ear::new(out.0, Hears::Data(Vec::new()))];
        self.finish((out.1, err.1), &mut ears, &mut heard)?;
        heard.end();
        let [_, Ear { hears: Hears::Data(bytes), .. }] = ears else { return Ok(String::new()) };
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn pipes(&self) -> Result<(Pipe, Pipe), ToolError> {
        let pipe = || io::pipe().map_err(fail(&self.path));
        Ok((pipe()?, pipe()?))
    }

    fn finish(
        mut self,
        (out, err): (PipeWriter, PipeWriter),
        ears: &mut [Ear],
        heard: &mut Heard<'_>,
    ) -> Result<(), ToolError> {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(out).stderr(err);
        let mut child = self.command.spawn().map_err(fail(&self.path))?;
        // The command holds the pipes' other ends, which have to close for the output to end.
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let (Some(input), Some(mut stdin)) = (&self.input, child.stdin.take()) {
            // One that does not read its input says so itself.
            let _ = stdin.write_all(input.expose());
        }
        match self.watch(&mut child, ears, heard) {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(ToolError::Failed { path: self.path, status, output: heard.end() }),
            Err(error) => {
                let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
                let _ = child.wait();
                Err(error)
            }
        }
    }

    fn watch(
        &self,
        child: &mut Child,
        ears: &mut [Ear],
        heard: &mut Heard<'_>,
    ) -> Result<ExitStatus, ToolError> {
        let began = Instant::now();
        let mut ended: Option<(ExitStatus, Instant)> = None;
        loop {
            let heard_some = listen(ears, heard).map_err(fail(&self.path))?;
            if ended.is_none() {
                let status = child.try_wait().map_err(fail(&self.path))?;
                ended = status.map(|status| (status, Instant::now()));
            }
            let deaf = ears.iter().all(|ear| ear.reader.is_none());
            match ended {
                Some((status, _)) if deaf => return Ok(status),
                Some((status, at)) if !heard_some && at.elapsed() > GRACE => return Ok(status),
                Some(_) => {}
                None if self.stop.is_some_and(|stop| stop()) => {
                    return Err(ToolError::Stopped(self.path.clone()));
                }
                None if began.elapsed() > self.bound => {
                    return Err(ToolError::Timeout(Timeout {
                        what: format!("{} to end", self.path.display()),
                        bound: self.bound,
                        last: "it still runs".to_owned(),
                    }));
                }
                None if deaf => std::thread::sleep(Duration::from_millis(20)),
                None => {}
            }
        }
    }
}

type Pipe = (PipeReader, PipeWriter);

fn fail(path: &Path) -> impl Fn(io::Error) -> ToolError + use<> {
    let path = path.to_owned();
    move |source| ToolError::Run { path: path.clone(), source }
}

/// One stream of a program.
struct Ear {
    /// Until it ends.
    reader: Option<PipeReader>,
    hears: Hears,
}

enum Hears {
    /// Lines for whoever looks on.
    Words,
    /// Bytes for us.
    Data(Vec<u8>),
}

impl Ear {
    fn new(reader: PipeReader, hears: Hears) -> Self {
        Ear { reader: Some(reader), hears }
    }
}

/// Reads what there is, for a moment; whether there was anything.
fn listen(ears: &mut [Ear], heard: &mut Heard<'_>) -> io::Result<bool> {
    let ready: Vec<bool> = {
        let mut fds: Vec<PollFd<'_>> = ears
            .iter()
            .filter_map(|ear| Some(PollFd::new(ear.reader.as_ref()?.as_fd(), PollFlags::POLLIN)))
            .collect();
        if fds.is_empty() {
            return Ok(false);
        }
        let _ = poll(&mut fds, PollTimeout::from(50u8));
        fds.iter().map(|fd| fd.any().unwrap_or(false)).collect()
    };
    let mut any = false;
    let open = ears.iter_mut().filter(|ear| ear.reader.is_some());
    for (ear, _) in open.zip(ready).filter(|(_, ready)| *ready) {
        let Some(reader) = &mut ear.reader else { continue };
        let mut bytes = [0; 4096];
        let count = reader.read(&mut bytes)?;
        any |= count > 0;
        match (&mut ear.hears, count) {
            (_, 0) => ear.reader = None,
            (Hears::Words, _) => heard.hear(&bytes[..count]),
            (Hears::Data(data), _) => data.extend_from_slice(&bytes[..count]),
        }
    }
    Ok(any)
}

/// What a program has said so far.
struct Heard<'a> {
    say: Say<'a>,
    lines: Lines,
    kept: Vec<u8>,
}

impl<'a> Heard<'a> {
    fn new(say: Say<'a>) -> Self {
        Heard { say, lines: Lines::default(), kept: Vec::new() }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        let over = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..over);
        self.lines.push(bytes, &mut |line| (self.say)(&line));
    }

    fn end(&mut self) -> String {
        self.lines.flush(&mut |line| (self.say)(&line));
        String::from_utf8_lossy(&self.kept).trim().to_owned()
    }
}

/// Where a program finds others.
fn search_path() -> String {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::split_paths(&own).filter(|dir| dir.is_absolute());
    let all = own.chain(DIRECTORIES.map(PathBuf::from)).chain([PathBuf::from("/bin")]);
    let mut path: Vec<String> = Vec::new();
    for dir in all.map(|dir| dir.to_string_lossy().into_owned()) {
        if !path.contains(&dir) {
            path.push(dir);
        }
    }
    path.join(":")
}

/// Runs a program whose words nobody waits for, and returns them.
pub fn run(path: &Path, args: &[&str]) -> Result<String, ToolError> {
    Run::new(path).args(args).run(&mut |_| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    const SH: &str = "/bin/sh";

    #[test]
    fn found_in_order_and_only_if_executable() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        for (directory, mode) in [(&one, 0o644), (&two, 0o755)] {
            fs::create_dir(directory).unwrap();
            fs::write(directory.join("tool"), "").unwrap();
            fs::set_permissions(directory.join("tool"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let directories = [dir.path().join("none"), one, two.clone()];
        assert_eq!(find_in("tool", directories.into_iter()), Some(two.join("tool")));
        assert_eq!(find("keystone-no-such-tool"), None);
        let missing = need("mkfs.f2fs-no").unwrap_err().to_string();
        assert!(missing.starts_with("the running system has no mkfs.f2fs-no"), "{missing}");
        let missing = ToolError::Missing { name: "mdadm".to_owned() }.to_string();
        assert!(missing.ends_with("Boot an installer that has it (mdadm)"), "{missing}");
    }

    #[test]
    fn its_words_are_kept_and_nothing_is_inherited() {
        let said = run(Path::new(SH), &["-c", "echo out; echo err >&2; set"]).unwrap();
        assert!(said.contains("out\nerr"), "{said}");
        assert!(!said.contains("CARGO"), "{said}");
        let error = run(Path::new(SH), &["-c", "echo no room >&2; exit 3"]).unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh failed (exit status: 3): no room");
    }

    #[test]
    fn lines_come_while_it_runs() {
        let mut heard = Vec::new();
        let began = Instant::now();
        Run::new(Path::new(SH))
            .args(["-c", "echo one; sleep 0.6; printf 'two\\rthree'"])
            .run(&mut |line| heard.push((line.to_owned(), began.elapsed())))
            .unwrap();
        let words: Vec<&str> = heard.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(words, ["one", "two", "three"]);
        assert!(heard[1].1 - heard[0].1 > Duration::from_millis(400), "{heard:?}");
    }

    #[test]
    fn input_and_variables_reach_it_and_only_there() {
        let said = Run::new(Path::new(SH))
            .args(["-c", "read -r x; echo \"$x-$name\"; tr '\\0' ' ' < /proc/$$/cmdline"])
            .envs(&BTreeMap::from([("name".to_owned(), "main".to_owned())]))
            .input(Secret::new(b"hush\n".to_vec()))
            .run(&mut |_| {})
            .unwrap();
        let (first, command_line) = said.split_once('\n').unwrap();
        assert_eq!(first, "hush-main");
        assert!(!command_line.contains("hush"), "{command_line}");
    }

    #[test]
    fn data_and_words_are_kept_apart() {
        let mut words = Vec::new();
        let data = Run::new(Path::new(SH))
            .args(["-c", "echo '{\"a\": 1}'; echo careful >&2; head -c 100000 /dev/zero"])
            .output(&mut |line| words.push(line.to_owned()))
            .unwrap();
        assert!(data.starts_with("{\"a\": 1}\n") && data.len() == 100_009);
        assert_eq!(words, ["careful"]);
    }

    #[test]
    fn what_it_leaves_running_does_not_hold_us() {
        let began = Instant::now();
        run(Path::new(SH), &["-c", "sleep 20 & echo done"]).unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }

    #[test]
    fn it_is_ended_with_its_children() {
        let began = Instant::now();
        let dir = tempfile::tempdir().unwrap();
        let script = format!("(sleep 2; touch {}/late) & wait", dir.path().display());
        let error = Run::new(Path::new(SH))
            .args(["-c", &script])
            .bound(Duration::from_millis(200))
            .run(&mut |_| {})
            .unwrap_err();
        assert!(matches!(error, ToolError::Timeout(_)), "{error}");
        let stopped =
            Run::new(Path::new(SH)).args(["-c", "sleep 30"]).stopped_by(&|| true).run(&mut |_| {});
        assert!(matches!(stopped, Err(ToolError::Stopped(_))), "{stopped:?}");
        assert!(began.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!dir.path().join("late").exists());
    }
}
