//! What unit tests of this crate share: real tools, loop devices, bytes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a program and returns its output; panics with what to install, or with what it said.
pub(crate) fn run(package: &str, program: &str, args: &[&str]) -> String {
    let output = run_any(package, program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program, whatever its exit status.
pub(crate) fn run_any(package: &str, program: &str, args: &[&str]) -> Output {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    Command::new(program).args(args).env("PATH", path).output().unwrap_or_else(|error| {
        panic!("{program} can't be run ({error}): this test needs it, `apt-get install {package}`")
    })
}

/// Bytes that don't compress, and are nowhere the same; others for each odd seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

/// A sparse file of that size.
pub(crate) fn sparse(path: &Path, size: u64) -> File {
    let file =
        File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(size).unwrap();
    file
}

/// The name of a loop device's file.
const BACKING: &str = "disk";

/// A loop device over a sparse file; both vanish when it is dropped.
#[derive(Debug)]
pub(crate) struct Loop {
    node: String,
    dir: tempfile::TempDir,
}

impl Loop {
    /// Attaches one. Needs root and the loop driver.
    pub(crate) fn new(size: u64, sector_size: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let backing = dir.path().join(BACKING);
        sparse(&backing, size);
        let sector_size = sector_size.to_string();
        let args = ["--find", "--show", "--sector-size", &sector_size, backing.to_str().unwrap()];
        let node = run("mount (and run as root)", "losetup", &args).trim().to_owned();
        // The kernel keeps partitions that were told to it, whatever is attached; a test that was killed
        // leaves some.
        run_any("util-linux", "partx", &["--delete", "--nr", "1:256", &node]);
        Loop { node, dir }
    }

    /// The file that it keeps its bytes in: what is written there passes the device by.
    pub(crate) fn backing(&self) -> PathBuf {
        self.dir.path().join(BACKING)
    }

    /// `/dev/loopN`.
    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    /// `loopN`.
    pub(crate) fn name(&self) -> &str {
        self.node.strip_prefix("/dev/").unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run_any("util-linux", "partx", &["--delete", "--nr", "1:256", &self.node]);
        run_any("mount", "losetup", &["--detach", &self.node]);
    }
}
