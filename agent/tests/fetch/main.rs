//! Closures that the machine fetches itself: the controller's library at one end, the agent's
//! program at the other, real web servers and a real cache between them; real Nix judges.

#![allow(unreachable_pub)]

#[path = "../../../controller/tests/common/mod.rs"]
mod common;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use common::flaky::{Faults, Flaky};
use common::nix::{self, NixStore, logical};
use common::web::Nginx;
use keystone_controller::closure::origin::Found;
use keystone_controller::closure::{ClosureSource, Origin, Store};
use keystone_controller::conversation::{Conversation, ExecuteError, PipeOut};
use keystone_controller::nar::DumpError;
use keystone_controller::operator::{Notice, Operator, OperatorError, Proposal};
use keystone_controller::ssh::PublicKey;
use keystone_controller::stop::{self, Stop, Stopper};
use keystone_protocol::event::{EventKind, Unit};
use keystone_protocol::fetch::Fetch;
use keystone_protocol::manifest::PathInfo;
use keystone_protocol::message::{Copied, CopyRequest};
use keystone_protocol::plan::Plan;
use keystone_protocol::secret::Secret;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn system() -> String {
    logical(nix::SYSTEM)
}

/// A cache in a directory, as `nix copy` writes it.
fn cache(store: &NixStore, compression: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    store.copy_to_cache(&system(), dir.path(), compression);
    dir
}

/// The file of a path in a cache.
fn nar_file(cache: &Path, name: &str) -> std::path::PathBuf {
    let narinfo = cache.join(format!("{}.narinfo", &name[..32]));
    let text = std::fs::read_to_string(narinfo).unwrap();
    let url = text.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
    cache.join(url)
}

/// What a machine is told of by a cache, and what is sent to it from a store, path by path.
struct Watched {
    cache: Arc<dyn ClosureSource>,
    store: Arc<dyn ClosureSource>,
    /// Done to what the machine is told.
    change: Box<dyn Fn(&mut Fetch) + Send + Sync>,
    sent: Mutex<Vec<String>>,
}

impl ClosureSource for Watched {
    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
        self.sent.lock().unwrap().push(path.path.clone());
        self.store.dump(path, out)
    }

    fn elsewhere(&self, paths: &[(u32, &PathInfo)]) -> Option<Fetch> {
        let mut fetch = self.cache.elsewhere(paths)?;
        (self.change)(&mut fetch);
        Some(fetch)
    }
}

/// Notes what it is told; asks to stop when the closure has begun to come, if it has the means to.
#[derive(Default)]
struct Notes {
    warnings: Vec<String>,
    log: Vec<String>,
    /// Of bytes.
    progress: Vec<u64>,
    stopper: Option<Stopper>,
}

impl Operator for Notes {
    fn notice(&mut self, notice: Notice<'_>) {
        match notice {
            Notice::Event(event) => match &event.kind {
                EventKind::Warning { message, .. } => self.warnings.push(message.clone()),
                EventKind::Progress { done, unit: Unit::Bytes, .. } => {
                    self.progress.push(*done);
                    if *done > 0
                        && let Some(stopper) = self.stopper.take()
                    {
                        stopper.ask();
                    }
                }
                _ => {}
            },
            Notice::AgentLog { line } => self.log.push(line.to_owned()),
            _ => {}
        }
    }

    async fn accept_host_key(&mut self, _: &str, _: &PublicKey) -> Result<bool, OperatorError> {
        Ok(false)
    }

    nothing_of_an_installation!();
}

/// What came of a copy.
struct Done {
    result: Result<Copied, ExecuteError>,
    notes: Notes,
    /// Paths that the controller sent.
    sent: Vec<String>,
}

/// Copies the closure that a cache has into a store below `root`. What the machine does not fetch
/// itself comes from `store`.
fn copy(
    store: &NixStore,
    cache: &str,
    root: &Path,
    change: impl Fn(&mut Fetch) + Send + Sync + 'static,
    stop: Option<(Stopper, Stop)>,
) -> Done {
    let Found { manifest, source } =
        Origin::named(cache).unwrap().find(Some(Path::new(&system())), None).unwrap();
    let own = Origin::Store(Store::below(store.root()));
    let own = own.find(Some(Path::new(&system())), None).unwrap();
    let (change, sent) = (Box::new(change), Mutex::default());
    let watched = Arc::new(Watched { cache: source, store: own.source, change, sent });
    let (stopper, stop) =
        stop.map_or((None, Stop::never()), |(stopper, stop)| (Some(stopper), stop));
    let mut notes = Notes { stopper, ..Notes::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let result = runtime.block_on(async {
        let mut agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_keystone-agent"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_remove("SSL_CERT_FILE")
            .env_remove("NIX_SSL_CERT_FILE")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = PipeOut(agent.stdin.take().unwrap());
        let (output, log) = (agent.stdout.take().unwrap(), agent.stderr.take().unwrap());
        let mut conversation =
            Conversation::over(input, output, log, None, &mut notes).await.unwrap();
        let request = CopyRequest { root: root.to_str().unwrap().to_owned(), manifest };
        let source = Arc::clone(&watched) as Arc<dyn ClosureSource>;
        let result = conversation.copy(request, source, true, &mut notes, &stop).await;
        drop(conversation);
        let ended = tokio::time::timeout(Duration::from_secs(20), agent.wait()).await;
        ended.expect("the agent ends").unwrap();
        result
    });
    let mut sent = watched.sent.lock().unwrap().clone();
    sent.sort();
    Done { result, notes, sent }
}

fn nothing_changed(_: &mut Fetch) {}

/// Real Nix finds the closure in the store below `root`, whole.
#[track_caller]
fn judge(root: &Path, store: &NixStore) {
    let uri = format!("local?root={}", root.display());
    let query = |args: &[&str]| {
        let mut command = Command::new(common::tool("nix-store", "nix-bin"));
        command.args(["--store", &uri]).args(args);
        common::run(command.env("NIX_REMOTE", "").env("NIX_CONFIG", "build-users-group ="))
    };
    query(&["--verify", "--check-contents"]);
    let requisites = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let top = system();
    let paths = requisites(query(&["--query", "--requisites", &top]));
    assert_eq!(paths, requisites(store.query(&["--query", "--requisites", &top])));
    let hashes = ["--query", "--hash"];
    for path in &paths {
        let of = [&hashes[..], &[path.as_str()]].concat();
        assert_eq!(query(&of), store.query(&of), "{path}");
    }
}

fn paths(store: &NixStore) -> usize {
    store.query(&["--query", "--requisites", &system()]).lines().count()
}

#[test]
fn a_machine_fetches_from_a_real_cache() {
    let store = NixStore::with_system();
    for compression in ["none", "xz", "zstd", "bzip2", "gzip"] {
        let (cache, root) = (cache(&store, compression), tempfile::tempdir().unwrap());
        let server = Nginx::serve(cache.path());
        let done = copy(&store, &server.http(), root.path(), nothing_changed, None);
        let copied = done.result.unwrap();
        assert_eq!(done.sent, [""; 0], "{compression}");
        assert_eq!(done.notes.warnings, [""; 0], "{compression}");
        assert_eq!(copied.paths, paths(&store) as u64);
        assert_eq!(done.notes.progress.last(), Some(&copied.bytes));
        let nars = server.requests().iter().filter(|line| line.contains("/nar/")).count();
        assert_eq!(nars, paths(&store), "each once: {:#?}", server.requests());
        judge(root.path(), &store);
        // There is nothing left to fetch.
        let again = copy(&store, &server.http(), root.path(), nothing_changed, None);
        assert_eq!(again.result.unwrap().present, paths(&store) as u64);
    }
}

/// By https only whom the operator trusts is believed.
#[test]
fn certificates_come_from_the_operator() {
    let store = NixStore::with_system();
    let cache = cache(&store, "zstd");
    let server = Nginx::serve(cache.path());
    let mut openssl = Command::new(common::tool("openssl", "openssl"));
    openssl.args(["x509", "-outform", "DER", "-in"]).arg(server.ca());
    let ca = BASE64.encode(openssl.output().unwrap().stdout);
    let by_https = |roots: Option<Vec<String>>| {
        let base = server.https();
        move |fetch: &mut Fetch| {
            fetch.base = Secret::from(base.clone());
            fetch.roots = roots.clone();
        }
    };
    let root = tempfile::tempdir().unwrap();
    let done = copy(&store, &server.http(), root.path(), by_https(Some(vec![ca])), None);
    done.result.unwrap();
    assert_eq!((done.sent, done.notes.warnings), (vec![], vec![]));
    judge(root.path(), &store);
    // The machine's own do not have this one: all is sent.
    let root = tempfile::tempdir().unwrap();
    let done = copy(&store, &server.http(), root.path(), by_https(None), None);
    done.result.unwrap();
    assert_eq!(done.sent.len(), paths(&store));
    assert!(done.notes.warnings[0].contains("certificate"), "{:?}", done.notes.warnings);
    judge(root.path(), &store);
}

#[test]
fn what_can_not_be_fetched_is_sent() {
    let store = NixStore::with_system();
    let cache = cache(&store, "none");
    let server = Nginx::serve(cache.path());
    let (kernel, etc) = (nar_file(cache.path(), nix::KERNEL), nar_file(cache.path(), nix::ETC));
    let initrd = nar_file(cache.path(), nix::INITRD);
    let mut bytes = std::fs::read(&kernel).unwrap();
    bytes[2_000_000] ^= 1;
    std::fs::write(&kernel, bytes).unwrap();
    std::fs::remove_file(etc).unwrap();
    let whole = std::fs::read(&initrd).unwrap();
    std::fs::write(&initrd, &whole[..whole.len() - 8]).unwrap();
    let root = tempfile::tempdir().unwrap();
    let done = copy(&store, &server.http(), root.path(), nothing_changed, None);
    let copied = done.result.unwrap();
    assert_eq!(done.sent, [nix::ETC, nix::KERNEL, nix::INITRD].map(logical));
    assert_eq!(copied.paths, paths(&store) as u64);
    let [warning] = &done.notes.warnings[..] else { panic!("{:?}", done.notes.warnings) };
    for word in ["sent from here", nix::KERNEL, "SHA-256", nix::ETC, "is not there", nix::INITRD] {
        assert!(warning.contains(word), "{word}: {warning}");
    }
    assert!(done.notes.progress.windows(2).all(|w| w[0] <= w[1]), "{:?}", done.notes.progress);
    judge(root.path(), &store);

    // What the file's hash does not show, the NAR's does.
    let no_hash = |fetch: &mut Fetch| {
        for nar in &mut fetch.nars {
            (nar.file_sha256, nar.file_size) = (None, None);
        }
    };
    let root = tempfile::tempdir().unwrap();
    let done = copy(&store, &server.http(), root.path(), no_hash, None);
    done.result.unwrap();
    assert_eq!(done.sent.len(), 3);
    judge(root.path(), &store);
}

/// A server that can't be reached is given up at once, and what is secret in its address is said
/// nowhere.
#[test]
fn a_server_that_is_not_there_is_given_up() {
    let store = NixStore::with_system();
    let cache = cache(&store, "xz");
    let server = Nginx::serve(cache.path());
    let elsewhere = |fetch: &mut Fetch| {
        fetch.base = Secret::from("http://me:geheim@127.0.0.1:1".to_owned());
    };
    let (root, began) = (tempfile::tempdir().unwrap(), Instant::now());
    let done = copy(&store, &server.http(), root.path(), elsewhere, None);
    done.result.unwrap();
    assert_eq!(done.sent.len(), paths(&store));
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(done.notes.warnings.len(), 1);
    let said = [done.notes.warnings, done.notes.log].concat().join("\n");
    assert!(said.contains("http://127.0.0.1:1/nar/") && said.contains("refused"), "{said}");
    let coded = BASE64.encode("me:geheim");
    assert!(!said.contains("geheim") && !said.contains(&coded), "{said}");
    judge(root.path(), &store);
}

#[test]
fn transfers_that_break_off_are_continued() {
    let store = NixStore::with_system();
    let cache = cache(&store, "none");
    for ranges in [true, false] {
        let faults = Faults { cut: 1_000_000, ranges, busy: 1, stalls: false };
        let server = Flaky::serve(cache.path(), faults);
        let root = tempfile::tempdir().unwrap();
        let done = copy(&store, server.address(), root.path(), nothing_changed, None);
        done.result.unwrap();
        assert_eq!((done.sent, done.notes.warnings), (vec![], vec![]));
        // Three million bytes of a kernel in pieces of one million, after one refusal.
        assert!(server.asked("nar/").iter().any(|&times| times >= 4), "{:?}", server.asked("nar/"));
        judge(root.path(), &store);
    }
}

/// Who asks to stop does not wait for a server, and what had come is not fetched again.
#[test]
fn stopped_midway_it_goes_on_later() {
    let store = NixStore::with_system();
    let cache = cache(&store, "none");
    let stalling = Faults { cut: 1_000_000, ranges: true, busy: 0, stalls: true };
    let server = Flaky::serve(cache.path(), stalling);
    let (root, began) = (tempfile::tempdir().unwrap(), Instant::now());
    let done = copy(&store, server.address(), root.path(), nothing_changed, Some(stop::channel()));
    let Err(ExecuteError::Failed { stopped, .. }) = done.result else { panic!() };
    assert!(stopped);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(done.sent, [""; 0]);
    // Now from a server that is in order: the rest of the kernel, by a range.
    let server = Nginx::serve(cache.path());
    let done = copy(&store, &server.http(), root.path(), nothing_changed, None);
    let copied = done.result.unwrap();
    assert!(copied.kept >= 500_000, "{copied:?}");
    assert_eq!(done.sent, [""; 0]);
    let ranged = server.requests().iter().filter(|line| line.contains(" 206 ")).count();
    assert_eq!(ranged, 1, "{:#?}", server.requests());
    judge(root.path(), &store);
}

/// What an earlier run had left is not lost because a server is not there.
#[test]
fn what_is_there_is_kept_if_nothing_can_be_fetched() {
    let store = NixStore::with_system();
    let cache = cache(&store, "none");
    let stalling = Faults { cut: 1_000_000, ranges: true, busy: 0, stalls: true };
    let server = Flaky::serve(cache.path(), stalling);
    let root = tempfile::tempdir().unwrap();
    let done = copy(&store, server.address(), root.path(), nothing_changed, Some(stop::channel()));
    assert!(done.result.is_err());
    let server = Nginx::serve(cache.path());
    let elsewhere = |fetch: &mut Fetch| fetch.base = Secret::from("http://127.0.0.1:1".to_owned());
    let done = copy(&store, &server.http(), root.path(), elsewhere, None);
    let copied = done.result.unwrap();
    assert!(copied.kept >= 500_000, "{copied:?}");
    assert!(done.sent.contains(&logical(nix::KERNEL)));
    judge(root.path(), &store);
}
