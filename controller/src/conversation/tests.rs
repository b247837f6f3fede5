//! The client against a peer that speaks the protocol, over pipes in memory.

use super::execute::{ExecuteError, Execution};
use super::{Conversation, ConversationError, PipeOut};
use crate::additions::Archive;
use crate::closure::ClosureSource;
use crate::nar::{Delta, DumpError};
use crate::operator::{Notice, Operator, OperatorError, Proposal};
use crate::ssh::PublicKey;
use crate::stop::{self, Stop};
use keystone_protocol::chunks::{Cutter, hash, to_text};
use keystone_protocol::event::{Event, EventKind, Failure, Outcome};
use keystone_protocol::fetch::{Compression, Fetch, FetchNar, NotFetched};
use keystone_protocol::frame::{Encoding, Frame, HEADER, parse_header, parse_payload};
use keystone_protocol::manifest::{Manifest, PathInfo};
use keystone_protocol::message::{
    EXTRA_FILES, ExecuteRequest, PlanRequest, Refusal, RefusalKind, ToAgent, ToController, Wanted,
    decode, encode,
};
use keystone_protocol::options::{ClosureFacts, InstallOptions};
use keystone_protocol::phase::Phases;
use keystone_protocol::plan::Plan;
use keystone_protocol::report::{EndsAt, Report};
use keystone_protocol::secret::Secret;
use keystone_protocol::version::PROTOCOL_VERSION;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// The agent's end.
struct Peer {
    input: DuplexStream,
    output: DuplexStream,
    log: DuplexStream,
}

type Client = (DuplexStream, DuplexStream, DuplexStream);

fn pipes() -> (Client, Peer) {
    let (to_agent, input) = tokio::io::duplex(1 << 20);
    let (output, from_agent) = tokio::io::duplex(1 << 16);
    let (log, agents_log) = tokio::io::duplex(1 << 16);
    ((to_agent, from_agent, agents_log), Peer { input, output, log })
}

impl Peer {
    async fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; HEADER];
        self.input.read_exact(&mut header).await.ok()?;
        let header = parse_header(header).unwrap();
        let mut payload = vec![0; header.length];
        self.input.read_exact(&mut payload).await.unwrap();
        Some(parse_payload(&header, payload).unwrap())
    }

    async fn hear(&mut self) -> ToAgent {
        decode(&self.frame().await.expect("a message")).unwrap()
    }

    async fn say(&mut self, message: ToController) {
        self.output.write_all(&encode(&message).unwrap().0).await.unwrap();
    }

    async fn hello(&mut self, protocol: u32, exe: &str) {
        self.say(ToController::Hello { protocol, version: "1.2.3".into(), exe: exe.into() }).await;
        assert!(matches!(self.hear().await, ToAgent::Hello { protocol: PROTOCOL_VERSION, .. }));
    }

    async fn event(&mut self, kind: EventKind) {
        self.say(ToController::Event(Event { at_ms: 0, kind })).await;
    }
}

/// Notes what it is told and keeps keys unless told not to.
#[derive(Default)]
struct Notes {
    lines: Vec<String>,
    keys: Vec<(String, Vec<u8>)>,
    keeps_nothing: bool,
}

impl Operator for Notes {
    fn notice(&mut self, notice: Notice<'_>) {
        self.lines.push(match notice {
            Notice::Event(event) => match &event.kind {
                EventKind::StepStarted { step } => format!("start {step}"),
                EventKind::StepFinished { step, .. } => format!("end {step}"),
                other => format!("{other:?}"),
            },
            Notice::AgentLog { line } => format!("log {line}"),
            Notice::Stopping => "stopping".into(),
            other => format!("{other:?}"),
        });
    }

    async fn accept_host_key(&mut self, _: &str, _: &PublicKey) -> Result<bool, OperatorError> {
        Ok(false)
    }

    async fn prepare(&mut self, _: &Plan) -> Result<(), OperatorError> {
        Ok(())
    }

    async fn confirm(&mut self, _: &Proposal<'_>) -> Result<(), OperatorError> {
        Ok(())
    }

    async fn password(&mut self, _: &[&str]) -> Result<Secret, OperatorError> {
        Err(OperatorError::Missing("none".into()))
    }

    async fn pin(&mut self, _: &[&str]) -> Result<Secret, OperatorError> {
        Err(OperatorError::Missing("none".into()))
    }

    async fn keep_recovery_key(&mut self, name: &str, key: &Secret) -> Result<(), OperatorError> {
        if self.keeps_nothing {
            return Err(OperatorError::Missing("the disk is full".into()));
        }
        self.keys.push((name.into(), key.expose().to_vec()));
        Ok(())
    }
}

async fn begin(client: Client, operator: &mut Notes) -> Result<Conversation, ConversationError> {
    let (out, stdout, stderr) = client;
    let expected = blake3::hash(b"the agent");
    Conversation::over(PipeOut(out), stdout, stderr, Some(&expected), operator).await
}

fn right() -> String {
    blake3::hash(b"the agent").to_hex().to_string()
}

#[tokio::test]
async fn hellos() {
    let (client, mut peer) = pipes();
    let right_exe = right();
    let agent = tokio::spawn(async move { peer.hello(PROTOCOL_VERSION, &right_exe).await });
    let conversation = begin(client, &mut Notes::default()).await.unwrap();
    assert_eq!(conversation.hello().version, "1.2.3");
    agent.await.unwrap();

    let (client, mut peer) = pipes();
    let right_exe = right();
    tokio::spawn(async move { peer.hello(PROTOCOL_VERSION + 1, &right_exe).await });
    let error = begin(client, &mut Notes::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("update keystone"), "{error}");

    // One whose hello has another form is told by its version too.
    for (theirs, update) in
        [(PROTOCOL_VERSION - 1, "update keystone-agent"), (PROTOCOL_VERSION + 1, "update keystone")]
    {
        let (client, mut peer) = pipes();
        let hello = format!(r#"{{"say":"hello","what":{{"protocol":{theirs},"program":[]}}}}"#);
        let framed = keystone_protocol::frame::encode_control(hello.as_bytes()).unwrap();
        peer.output.write_all(&framed.0).await.unwrap();
        let error = begin(client, &mut Notes::default()).await.unwrap_err();
        assert!(matches!(error, ConversationError::Version(_)), "{error}");
        assert!(error.to_string().ends_with(update), "{error}");
    }

    let (client, mut peer) = pipes();
    tokio::spawn(async move { peer.hello(PROTOCOL_VERSION, &"0".repeat(64)).await });
    let error = begin(client, &mut Notes::default()).await.unwrap_err();
    assert!(error.to_string().contains("not trusted"), "{error}");
}

#[tokio::test]
async fn what_is_no_agent() {
    let (client, mut peer) = pipes();
    peer.output.write_all(b"Welcome to NixOS\n").await.unwrap();
    let error = begin(client, &mut Notes::default()).await.unwrap_err();
    assert!(crate::chain(&error).contains("login shell"), "{}", crate::chain(&error));

    let (client, mut peer) = pipes();
    peer.log.write_all(b"must run as root\n").await.unwrap();
    drop(peer);
    let error = begin(client, &mut Notes::default()).await.unwrap_err();
    assert!(error.to_string().contains("its last words: must run as root"), "{error}");
}

/// Paths whose NARs are given.
struct Given(Vec<Vec<u8>>);

impl ClosureSource for Given {
    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
        let index: usize = path.path.parse().unwrap();
        out.write_all(&self.0[index]).map_err(DumpError::Sink)
    }
}

fn want(paths: &[(u32, u64)], credit: u64) -> ToController {
    let paths = paths.iter().map(|&(path, from)| Wanted { path, from }).collect();
    ToController::WantPaths { paths, credit, window_log: 23, alike: vec![] }
}

fn execution(nars: Vec<Vec<u8>>) -> Execution {
    let path = |(i, nar): (usize, &Vec<u8>)| PathInfo {
        path: i.to_string(),
        nar_sha256: String::new(),
        nar_size: nar.len() as u64,
        references: vec![],
        deriver: None,
        signatures: vec![],
        ca: None,
    };
    let manifest =
        Manifest { toplevel: "0".into(), paths: nars.iter().enumerate().map(path).collect() };
    let closure = ClosureFacts {
        toplevel: "0".into(),
        system: "x86_64-linux".into(),
        paths: 1,
        nar_bytes: 1,
        boot_bytes: 1,
        hostid: None,
        hostname: None,
        fstab: vec![],
        zfs_version: None,
        enrols_secure_boot_keys: false,
    };
    let options = InstallOptions::default();
    let request =
        PlanRequest { layout: "{}".into(), options, closure: Some(closure), phases: Phases::ALL };
    let request = ExecuteRequest {
        request,
        plan: "hash".into(),
        manifest,
        password: None,
        pin: None,
        key_files: Default::default(),
        host_keys: vec![],
        goes_on: false,
        patience_s: 0,
    };
    Execution { request, source: Arc::new(Given(nars)), on_target: false, extra_files: None }
}

fn report() -> Report {
    serde_json::from_value(serde_json::json!({
        "version": 1, "agent_version": "1.2.3", "plan": "hash", "toplevel": "0", "disks": {},
        "pools": {}, "containers": {}, "ssh_host_key": null, "steps": [], "warnings": [],
        "ends_at": "sealed", "started_at": 1
    }))
    .unwrap()
}

#[tokio::test]
async fn a_whole_execution() {
    let (client, mut peer) = pipes();
    // The second is larger than all buffers on the way.
    let nars = vec![vec![1; 10], (0..5_000_000u32).map(|n| (n % 7) as u8).collect(), vec![3; 30]];
    let expected = nars.clone();
    let agent = tokio::spawn(async move {
        peer.hello(PROTOCOL_VERSION, &right()).await;
        let ToAgent::Execute(request) = peer.hear().await else { panic!() };
        assert_eq!(request.plan, "hash");
        peer.event(EventKind::StepStarted { step: "enroll".into() }).await;
        let key = Secret::new(b"key of the container".to_vec());
        peer.say(ToController::RecoveryKey { container: "credstore".into(), key }).await;
        let stored = peer.hear().await;
        assert!(
            matches!(stored, ToAgent::RecoveryKeyStored { container } if container == "credstore")
        );
        peer.say(want(&[(2, 0), (1, 0)], 1 << 30)).await;
        let mut got = vec![Vec::new(); 3];
        let mut lasts = 0;
        while lasts < 2 {
            let Some(Frame::Block(header, data)) = peer.frame().await else { panic!() };
            // Events while blocks come: neither waits for the other.
            peer.event(EventKind::StepStarted { step: "closure".into() }).await;
            got[header.path as usize].extend(match header.encoding {
                Encoding::Raw => data,
                Encoding::Zstd => zstd::decode_all(&data[..]).unwrap(),
                Encoding::Chunks => panic!("nothing was offered"),
                Encoding::Stream { .. } => panic!("a stream on a fast line"),
            });
            lasts += u32::from(header.last);
        }
        assert!(got[1] == expected[1] && got[2] == expected[2] && got[0].is_empty());
        peer.event(EventKind::StepFinished {
            step: "closure".into(),
            outcome: Outcome::Created,
            elapsed_ms: 1,
        })
        .await;
        peer.log.write_all(b"\x1b[31mred\n").await.unwrap();
        peer.say(ToController::Done(Box::new(report()))).await;
        assert!(matches!(peer.hear().await, ToAgent::Reboot));
        peer.say(ToController::Rebooting { boot_id: "boot".into() }).await;
        assert!(matches!(peer.hear().await, ToAgent::Goodbye));
        // The conversation is closed from the other end.
        assert!(peer.frame().await.is_none());
    });
    let mut notes = Notes::default();
    let mut conversation = begin(client, &mut notes).await.unwrap();
    let done = conversation.execute(execution(nars), &mut notes, &Stop::never()).await.unwrap();
    assert_eq!(done.ends_at, EndsAt::Sealed);
    assert_eq!(notes.keys, [("credstore".to_owned(), b"key of the container".to_vec())]);
    assert_eq!(notes.lines.first().unwrap(), "start enroll");
    assert_eq!(conversation.reboot(&mut notes).await.unwrap(), "boot");
    // How the agent's program ended is not known of a stream.
    let (ended_well, ()) = tokio::join!(conversation.goodbye(), async { agent.await.unwrap() });
    assert!(!ended_well);
    assert!(notes.lines.iter().any(|l| l == "log \u{fffd}[31mred"), "{:?}", notes.lines);
}

/// Paths that lie elsewhere too, but for the last.
struct Elsewhere(Given);

impl ClosureSource for Elsewhere {
    fn dump(&self, path: &PathInfo, out: &mut dyn Write) -> Result<(), DumpError> {
        self.0.dump(path, out)
    }

    fn elsewhere(&self, paths: &[(u32, &PathInfo)]) -> Option<Fetch> {
        let nar = |&(path, ref info): &(u32, &PathInfo)| FetchNar {
            path,
            name: format!("{}.nar", info.path),
            compression: Compression::None,
            file_size: None,
            file_sha256: None,
        };
        let nars = paths.iter().map(nar).filter(|nar| nar.path != 2).collect();
        Some(Fetch { base: Secret::from("http://cache".to_owned()), roots: None, nars })
    }
}

/// The machine is told once where to fetch; what it wants after that is sent.
#[tokio::test]
async fn what_the_machine_does_not_fetch_is_sent() {
    let (client, mut peer) = pipes();
    let nars = vec![vec![1; 10], vec![2; 20], vec![3; 30]];
    let agent = tokio::spawn(async move {
        peer.hello(PROTOCOL_VERSION, &right()).await;
        assert!(matches!(peer.hear().await, ToAgent::Execute(_)));
        peer.event(EventKind::StepStarted { step: "closure".into() }).await;
        peer.say(want(&[(0, 0), (1, 5), (2, 0)], 1 << 30)).await;
        let ToAgent::Fetch(fetch) = peer.hear().await else { panic!() };
        assert_eq!(fetch.base.expose(), b"http://cache");
        let told: Vec<u32> = fetch.nars.iter().map(|nar| nar.path).collect();
        assert_eq!(told, [0, 1]);
        let paths = vec![NotFetched { path: 1, why: "it is not there".into() }];
        peer.say(ToController::NotFetched { paths }).await;
        peer.say(want(&[(1, 0), (2, 0)], 1 << 30)).await;
        let mut got = vec![Vec::new(); 3];
        while got[1].len() < 20 || got[2].len() < 30 {
            let Some(Frame::Block(header, data)) = peer.frame().await else { panic!() };
            got[header.path as usize].extend(match header.encoding {
                Encoding::Raw => data,
                Encoding::Zstd => zstd::decode_all(&data[..]).unwrap(),
                Encoding::Chunks => panic!("nothing was offered"),
                Encoding::Stream { .. } => panic!("a stream on a fast line"),
            });
        }
        assert_eq!(got, [vec![], vec![2; 20], vec![3; 30]]);
        peer.say(ToController::Done(Box::new(report()))).await;
    });
    let mut notes = Notes::default();
    let mut conversation = begin(client, &mut notes).await.unwrap();
    let source = Arc::new(Elsewhere(Given(nars.clone())));
    let told = Execution { source, on_target: true, ..execution(nars) };
    conversation.execute(told, &mut notes, &Stop::never()).await.unwrap();
    agent.await.unwrap();
    let warning = notes.lines.iter().find(|line| line.starts_with("Warning")).unwrap();
    for word in ["closure", "1 of the paths", "sent from here", "1: it is not there"] {
        assert!(warning.contains(word), "{word}: {warning}");
    }
}

fn failure(message: &str) -> Failure {
    Failure {
        message: message.into(),
        causes: vec![],
        left: vec!["the disk holds a table".into()],
        next: "run again".into(),
    }
}

/// Runs an execution whose peer, once it has started, behaves as `agent`.
async fn fails<F: Future<Output = ()> + Send + 'static>(
    agent: impl FnOnce(Peer) -> F,
    nars: Vec<Vec<u8>>,
    mut notes: Notes,
    stop: &Stop,
) -> ExecuteError {
    let (client, mut peer) = pipes();
    let begun = tokio::spawn(async move {
        peer.hello(PROTOCOL_VERSION, &right()).await;
        peer
    });
    let mut conversation = begin(client, &mut notes).await.unwrap();
    let agent = tokio::spawn(agent(begun.await.unwrap()));
    let error = conversation.execute(execution(nars), &mut notes, stop).await.unwrap_err();
    drop(conversation);
    agent.await.unwrap();
    error
}

#[tokio::test]
async fn a_changed_plan_is_refused() {
    let agent = |mut peer: Peer| async move {
        peer.hear().await;
        let refusal =
            Refusal { kind: RefusalKind::PlanChanged, message: "another disk".into(), hint: None };
        peer.say(ToController::Refused(refusal)).await;
    };
    let error = fails(agent, vec![], Notes::default(), &Stop::never()).await;
    assert!(matches!(error, ExecuteError::Refused(_)), "{error}");
}

#[tokio::test]
async fn stopping_once_waits_and_twice_leaves() {
    let (stopper, stop) = stop::channel();
    let agent = |mut peer: Peer| async move {
        peer.hear().await;
        peer.event(EventKind::StepStarted { step: "pool".into() }).await;
        stopper.ask();
        assert!(matches!(peer.hear().await, ToAgent::Abort));
        peer.say(ToController::Failed(failure("stopped"))).await;
    };
    let error = fails(agent, vec![], Notes::default(), &stop).await;
    let ExecuteError::Failed { step, failure, stopped, .. } = error else { panic!("{error}") };
    assert_eq!(
        (step.as_deref(), failure.next.as_str(), stopped),
        (Some("pool"), "run again", true)
    );

    let (stopper, stop) = stop::channel();
    let agent = |mut peer: Peer| async move {
        peer.hear().await;
        stopper.ask();
        assert!(matches!(peer.hear().await, ToAgent::Abort));
        stopper.ask();
        assert!(peer.frame().await.is_none());
    };
    let error = fails(agent, vec![], Notes::default(), &stop).await;
    assert!(matches!(error, ExecuteError::Left), "{error}");
}

#[tokio::test]
async fn without_the_recovery_key_kept_nothing_goes_on() {
    let agent = |mut peer: Peer| async move {
        peer.hear().await;
        let key = Secret::new(b"key".to_vec());
        peer.say(ToController::RecoveryKey { container: "credstore".into(), key }).await;
        assert!(matches!(peer.hear().await, ToAgent::Abort));
        peer.say(ToController::Failed(failure("stopped"))).await;
    };
    let notes = Notes { keeps_nothing: true, ..Notes::default() };
    let error = fails(agent, vec![], notes, &Stop::never()).await;
    let ExecuteError::Failed { cause: Some(cause), stopped, .. } = error else { panic!("{error}") };
    assert!(cause.to_string().contains("the disk is full") && !stopped);
}

#[tokio::test]
async fn a_source_that_fails_is_told() {
    let agent = |mut peer: Peer| async move {
        peer.hear().await;
        peer.say(want(&[(0, 0)], 1 << 30)).await;
        let ToAgent::SourceFailed { message } = peer.hear().await else { panic!() };
        assert!(message.contains("the path was changed"), "{message}");
        peer.say(ToController::Failed(failure(&message))).await;
    };
    let mut given = execution(vec![vec![1; 10]]);
    given.request.manifest.paths[0].nar_size = 20;
    let (client, mut peer) = pipes();
    let begun = tokio::spawn(async move {
        peer.hello(PROTOCOL_VERSION, &right()).await;
        agent(peer).await;
    });
    let mut notes = Notes::default();
    let mut conversation = begin(client, &mut notes).await.unwrap();
    let error = conversation.execute(given, &mut notes, &Stop::never()).await.unwrap_err();
    assert!(matches!(error, ExecuteError::Failed { .. }), "{error}");
    begun.await.unwrap();
}

#[tokio::test]
async fn paths_that_do_not_exist_are_not_sent() {
    let agent = |mut peer: Peer| async move {
        peer.hear().await;
        peer.say(want(&[(7, 0)], 1 << 30)).await;
        assert!(matches!(peer.hear().await, ToAgent::Abort));
        assert!(peer.frame().await.is_none());
    };
    let error = fails(agent, vec![vec![1]], Notes::default(), &Stop::never()).await;
    assert!(
        error.to_string().contains("it wants path 7 from byte 0, the closure has 1"),
        "{error}"
    );
}

/// Nothing is sent beyond the credit, a block is sent again when it is asked for, and the
/// beginning of a path that the agent has is left out.
#[tokio::test]
async fn credit_and_repetition() {
    let (client, mut peer) = pipes();
    let noise = |seed: u32| {
        let mut state = seed;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        };
        (0..3 << 20).map(|_| next()).collect::<Vec<u8>>()
    };
    let nars = vec![noise(1), noise(2)];
    let expected = nars.clone();
    let agent = tokio::spawn(async move {
        peer.hello(PROTOCOL_VERSION, &right()).await;
        assert!(matches!(peer.hear().await, ToAgent::Execute(_)));
        peer.say(want(&[(1, 1 << 20), (0, 0)], 2 << 20)).await;
        let mut blocks = Vec::new();
        for _ in 0..2 {
            let Some(Frame::Block(header, data)) = peer.frame().await else { panic!() };
            blocks.push((header, data));
        }
        // The credit is used up.
        let more = tokio::time::timeout(Duration::from_millis(300), peer.frame()).await;
        assert!(more.is_err());
        assert_eq!((blocks[0].0.path, blocks[0].0.offset), (1, 1 << 20));
        assert!(blocks[0].1[..] == expected[1][1 << 20..2 << 20]);
        peer.say(ToController::SendAgain { number: 1 }).await;
        let Some(Frame::Block(header, data)) = peer.frame().await else { panic!() };
        assert!((header, data) == blocks[1]);
        peer.say(ToController::Credit { whole: 2, bytes: 100 << 20 }).await;
        for number in 0..3 {
            let Some(Frame::Block(header, data)) = peer.frame().await else { panic!() };
            assert_eq!((header.path, header.offset), (0, number << 20));
            blocks.push((header, data));
        }
        // The last one can still be asked for, one that arrived can't.
        peer.say(ToController::SendAgain { number: 4 }).await;
        let Some(Frame::Block(header, _)) = peer.frame().await else { panic!() };
        assert!(header.last && header.offset == 2 << 20);
        peer.say(ToController::SendAgain { number: 1 }).await;
        assert!(matches!(peer.hear().await, ToAgent::SourceFailed { .. }));
        peer.say(ToController::Done(Box::new(report()))).await;
    });
    let mut notes = Notes::default();
    let mut conversation = begin(client, &mut notes).await.unwrap();
    conversation.execute(execution(nars), &mut notes, &Stop::never()).await.unwrap();
    agent.await.unwrap();
}

/// What the agent holds is asked for and named; where it is gone all comes, also what was not asked
/// for again.
#[tokio::test]
async fn what_the_agent_holds_is_not_sent() {
    let mut state = 1u32;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    let nar: Vec<u8> = noise.take(40 << 20).collect();
    let expected = nar.clone();
    let (client, mut peer) = pipes();
    let agent = tokio::spawn(async move {
        peer.hello(PROTOCOL_VERSION, &right()).await;
        assert!(matches!(peer.hear().await, ToAgent::Execute(_)));
        let paths = vec![Wanted { path: 0, from: 0 }];
        // Credit for what three blocks become.
        let credit = 3 << 20;
        let want = ToController::WantPaths { paths, credit, window_log: 23, alike: vec![0] };
        peer.say(want).await;
        let ToAgent::WantChunks { paths } = peer.hear().await else { panic!("chunks") };
        assert_eq!(paths, [0]);
        let mut hashes = Vec::new();
        let mut each = |chunk: &[u8]| {
            hashes.push(hash(chunk));
            Ok::<(), std::convert::Infallible>(())
        };
        let mut cutter = Cutter::default();
        let (Ok(()), Ok(())) = (cutter.push(&expected, &mut each), cutter.end(&mut each));
        peer.say(ToController::Chunks { path: 0, first: 0, hashes: to_text(&hashes) }).await;
        let mut offset = 0;
        for _ in 0..3 {
            let Some(Frame::Block(header, data)) = peer.frame().await else { panic!() };
            assert_eq!((header.encoding, header.offset), (Encoding::Chunks, offset));
            assert!(data.len() < 1000);
            offset += u64::from(header.raw_len);
        }
        let more = tokio::time::timeout(Duration::from_millis(300), peer.frame()).await;
        assert!(more.is_err());
        peer.say(ToController::SendAgain { number: 0 }).await;
        let Some(Frame::Block(header, data)) = peer.frame().await else { panic!() };
        assert_eq!((header.encoding, header.offset), (Encoding::Raw, 0));
        assert!(data[..] == expected[..data.len()]);
        peer.say(ToController::Credit { whole: 3, bytes: 100 << 20 }).await;
        let mut named = 0;
        loop {
            let Some(Frame::Block(header, _)) = peer.frame().await else { panic!() };
            assert_eq!(header.offset, offset);
            offset += u64::from(header.raw_len);
            named += usize::from(header.encoding == Encoding::Chunks);
            if header.last {
                assert_ne!(header.encoding, Encoding::Chunks);
                break;
            }
        }
        // What was packed already.
        assert!(named <= crate::nar::blocks::AHEAD + 4, "{named}");
        peer.say(ToController::Chunks { path: 0, first: 0, hashes: String::new() }).await;
        assert!(matches!(peer.hear().await, ToAgent::Abort));
    });
    let mut notes = Notes::default();
    let mut conversation = begin(client, &mut notes).await.unwrap();
    conversation.set_delta(Delta::Always);
    let done = conversation.execute(execution(vec![nar]), &mut notes, &Stop::never()).await;
    let error = crate::chain(&done.unwrap_err());
    assert!(error.contains("chunks that nobody asked for"), "{error}");
    agent.await.unwrap();
}

/// The operator's files come in a stream of their own, numbered anew.
#[tokio::test]
async fn the_operators_files_come_when_they_are_wanted() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("large"), vec![7; 3 << 20]).unwrap();
    let archive = Arc::new(Archive::new(dir.path()).unwrap());
    let facts = archive.facts().clone();
    let (client, mut peer) = pipes();
    let agent = tokio::spawn(async move {
        peer.hello(PROTOCOL_VERSION, &right()).await;
        assert!(matches!(peer.hear().await, ToAgent::Execute(_)));
        peer.say(want(&[(0, 0)], 1 << 30)).await;
        assert!(matches!(peer.frame().await, Some(Frame::Block(..))));
        peer.say(ToController::WantExtraFiles { credit: 1 << 30, window_log: 23 }).await;
        let mut got = Vec::new();
        loop {
            let Some(Frame::Block(header, data)) = peer.frame().await else { panic!() };
            assert_eq!((header.path, header.offset), (EXTRA_FILES, got.len() as u64));
            got.extend(match header.encoding {
                Encoding::Raw => data,
                Encoding::Zstd => zstd::decode_all(&data[..]).unwrap(),
                Encoding::Chunks => panic!("nothing was offered"),
                Encoding::Stream { .. } => panic!("a stream on a fast line"),
            });
            if header.last {
                break;
            }
        }
        assert_eq!(blake3::hash(&got).to_hex().as_str(), facts.blake3);
        peer.say(ToController::SendAgain { number: 0 }).await;
        let Some(Frame::Block(header, _)) = peer.frame().await else { panic!() };
        assert_eq!((header.path, header.offset), (EXTRA_FILES, 0));
        peer.say(ToController::Done(Box::new(report()))).await;
    });
    let mut notes = Notes::default();
    let mut conversation = begin(client, &mut notes).await.unwrap();
    let given = Execution { extra_files: Some(archive), ..execution(vec![vec![1; 10]]) };
    conversation.execute(given, &mut notes, &Stop::never()).await.unwrap();
    agent.await.unwrap();
}

#[tokio::test]
async fn files_that_nobody_gave_are_not_sent() {
    let agent = |mut peer: Peer| async move {
        peer.hear().await;
        peer.say(ToController::WantExtraFiles { credit: 1 << 30, window_log: 23 }).await;
        assert!(matches!(peer.hear().await, ToAgent::Abort));
        assert!(peer.frame().await.is_none());
    };
    let error = fails(agent, vec![vec![1]], Notes::default(), &Stop::never()).await;
    assert!(error.to_string().contains("there are none"), "{error}");
}
