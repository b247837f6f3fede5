//! A person at a terminal: questions, answers, and what stays on the screen.
//!
//! Without a harness: started with `child`, this program is the one that asks; otherwise it runs
//! itself at a pseudo-terminal (util-linux' `script`), reads what is asked and types.

mod common;

use keystone_controller::confirm::Consent;
use keystone_controller::kexec::Ending;
use keystone_controller::operator::{Notice, Operator, Proposal};
use keystone_controller::ui::CommandLine;
use keystone_controller::ui::Screen;
use keystone_controller::ui::command_line::Answers;
use keystone_controller::ui::plain::Plain;
use keystone_protocol::event::{Event, EventKind, Outcome, StepSummary, Unit};
use keystone_protocol::inventory::Inventory;
use keystone_protocol::plan::{Basis, ContainerPlan, ContainerUnlock, Plan, basis_hash};
use keystone_protocol::secret::Secret;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const KEY: &str = "cbdefghi-jklnrtuv";
/// Rows that a key and what is said of it take.
const SHOWN: usize = 7;

fn main() -> ExitCode {
    let child = std::env::args().nth(1).filter(|arg| arg == "child");
    if child.is_some() {
        return child_main(&std::env::args().nth(2).unwrap_or_default());
    }
    let tests: &[(&str, fn())] = &[
        ("names_are_typed", names_are_typed),
        ("other_names_are_no", other_names_are_no),
        ("passwords_are_not_echoed_and_asked_for_twice", passwords),
        ("a_recovery_key_is_confirmed_and_taken_off_the_screen", recovery_key),
        ("an_interrupt_leaves_the_terminal_as_it_was", interrupt),
        ("an_unknown_host_key_is_asked_about", host_key),
        ("the_system_that_ends_is_typed", the_system_that_ends_is_typed),
        ("the_password_of_sudo_is_typed_once_and_not_shown", sudo_password),
        ("plans_and_progress_fit_the_terminal", fits),
        ("colours_are_for_terminals_that_want_them", colours),
    ];
    println!("\nrunning {} tests", tests.len());
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    println!("\ntest result: ok. {} passed; 0 failed\n", tests.len());
    ExitCode::SUCCESS
}

fn inventory() -> Inventory {
    serde_json::from_str(include_str!("../src/confirm/fixtures/inventory.json")).unwrap()
}

fn plan() -> Plan {
    let basis = Basis {
        layout: "{}".into(),
        options: Default::default(),
        toplevel: "/nix/store/x".into(),
        disks: BTreeMap::from([("root".into(), inventory().disks[0].identity.clone())]),
        destroys: vec![],
        steps: vec![],
    };
    let container = ContainerPlan {
        name: "credstore".into(),
        unlock: ContainerUnlock::Password,
        reason: "there is no TPM".into(),
    };
    Plan {
        hash: basis_hash(&basis),
        basis,
        steps: vec![],
        containers: vec![container],
        notes: vec![],
        warnings: vec![],
    }
}

/// Asks as `what` says and prints what came of it.
fn child_main(what: &str) -> ExitCode {
    let answers = Answers {
        interactive: true,
        consent: Consent::Typed,
        end_system: None,
        print_plan: true,
        password: None,
        pin: None,
        unlock_key: None,
        recovery_key_file: None,
    };
    let screen = Box::new(Plain::new(std::io::stderr(), false));
    let mut operator = CommandLine::new(screen, answers);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (inventory, plan) = (inventory(), plan());
    runtime.block_on(async {
        match what {
            "confirm" => {
                let proposal = Proposal { host: "10.0.0.5", inventory: &inventory, plan: &plan };
                match operator.confirm(&proposal).await {
                    Ok(()) => println!("AGREED"),
                    Err(error) => println!("NO: {error}"),
                }
            }
            "end" => {
                let ending = Ending {
                    host: "10.0.0.5",
                    name: "web1",
                    system: "Debian GNU/Linux 13 (web1)",
                    image: "kexec.tar.gz",
                };
                match operator.confirm_end(&ending).await {
                    Ok(()) => println!("AGREED"),
                    Err(error) => println!("NO: {error}"),
                }
            }
            "progress" => progress(),
            "password" => {
                let password = operator.password(&["credstore"]).await.unwrap();
                println!("GOT {} BYTES", password.len());
            }
            "key" => {
                let key = Secret::new(KEY.as_bytes().to_vec());
                match operator.keep_recovery_key("credstore", &key).await {
                    Ok(()) => println!("KEPT {:?}", operator.kept()),
                    Err(error) => println!("NO: {error}"),
                }
            }
            other => panic!("{other}"),
        }
    });
    ExitCode::SUCCESS
}

/// Amid a closure, on the live display.
fn progress() {
    let mut screen = keystone_controller::ui::terminal::Terminal::new(false);
    let mut event = |at_ms, kind| screen.show(&Notice::Event(&Event { at_ms, kind }));
    let step = || "closure".to_owned();
    let title = "receive the closure: 312 paths, 1.2 GiB".to_owned();
    let steps = vec![StepSummary { id: step(), title }];
    event(0, EventKind::Started { plan: "hash".into(), steps });
    event(10, EventKind::StepStarted { step: step() });
    for second in 1..=6u64 {
        let total = Some(1200 << 20);
        let done = (second * 100) << 20;
        let kind = EventKind::Progress { step: step(), done, total, unit: Unit::Bytes };
        event(30 + second * 1000, kind);
        std::thread::sleep(Duration::from_millis(150));
    }
    let message = "a warning that is longer than a narrow terminal has columns, and so is broken at \
                   spaces instead of amid a word";
    event(9_000, EventKind::Warning { step: step(), message: message.into() });
    let outcome = Outcome::Created;
    event(10_000, EventKind::StepFinished { step: step(), outcome, elapsed_ms: 9_990 });
    screen.finish();
}

/// A program at a pseudo-terminal.
struct Terminal {
    child: Child,
    output: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn run(command: &str) -> Self {
        let mut child = Command::new(common::tool("script", "bsdutils"))
            .args(["--quiet", "--return", "--command", command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, output, seen: String::new() }
    }

    fn child(what: &str) -> Self {
        Self::run(&format!("{} child {what}", std::env::current_exe().unwrap().display()))
    }

    /// Waits until `text` is on the screen, and forgets what was before.
    fn expect(&mut self, text: &str) -> String {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
                Err(e) => panic!("'{text}' is not shown ({e}): {}", self.seen),
            }
        }
    }

    fn type_line(&mut self, text: &str) {
        // A person is slower than the switch that turns echo off.
        std::thread::sleep(Duration::from_millis(100));
        self.child.stdin.as_mut().unwrap().write_all(format!("{text}\r").as_bytes()).unwrap();
    }

    /// What is still shown, and the exit status.
    fn end(mut self) -> (String, i32) {
        let status = self.child.wait().unwrap();
        while let Ok(bytes) = self.output.recv() {
            self.seen.push_str(&String::from_utf8_lossy(&bytes));
        }
        (self.seen, status.code().unwrap())
    }
}

fn names_are_typed() {
    let mut terminal = Terminal::child("confirm");
    let shown = terminal.expect("Type the host to install (10.0.0.5): ");
    assert!(shown.contains(&plan().hash) && shown.contains("/dev/disk/by-id/virtio-target"));
    terminal.type_line("10.0.0.6");
    terminal.expect("Type the host to install");
    terminal.type_line("10.0.0.5");
    terminal.expect("Type the name of the disk to erase (virtio-target): ");
    terminal.type_line("virtio-target");
    terminal.expect("AGREED");
}

fn other_names_are_no() {
    let mut terminal = Terminal::child("confirm");
    for answer in ["yes", "y", ""] {
        terminal.expect("Type the host to install");
        terminal.type_line(answer);
    }
    terminal.expect("NO: not confirmed");
}

/// What ends with a kexec is named by who runs it, not by its address.
fn the_system_that_ends_is_typed() {
    let question = "Type the name of the system that ends (web1): ";
    let mut terminal = Terminal::child("end");
    let shown = terminal.expect(question);
    for words in [
        "At 10.0.0.5 runs Debian GNU/Linux 13 (web1).",
        "kexec.tar.gz",
        "written to its disks but the image",
    ] {
        assert!(shown.contains(words), "{shown}");
    }
    terminal.type_line("10.0.0.5");
    terminal.expect(question);
    terminal.type_line("web1");
    terminal.expect("AGREED");
    let mut terminal = Terminal::child("end");
    for answer in ["yes", "web2", ""] {
        terminal.expect(question);
        terminal.type_line(answer);
    }
    terminal.expect("NO: not confirmed");
}

fn passwords() {
    let mut terminal = Terminal::child("password");
    let question = "at least 12 characters, at least 6 of them different, no control characters): ";
    terminal.expect(question);
    terminal.type_line("short");
    terminal.expect("has 5 characters; it needs at least 12");
    terminal.expect(question);
    terminal.type_line("correct horse battery");
    terminal.expect("The same again: ");
    terminal.type_line("correct horse cattery");
    terminal.expect("the two are not the same");
    terminal.expect(question);
    terminal.type_line("correct horse battery");
    terminal.expect("The same again: ");
    terminal.type_line("correct horse battery");
    let shown = terminal.expect("GOT 21 BYTES");
    assert!(!shown.contains("horse"), "{shown}");
}

fn recovery_key() {
    let mut terminal = Terminal::child("key");
    let shown = terminal.expect("type its last group: ");
    assert!(shown.contains(KEY), "{shown}");
    terminal.type_line("cbdefghi");
    terminal.expect("type its last group: ");
    terminal.type_line("jklnrtuv");
    let shown = terminal.expect("KEPT");
    assert!(shown.contains(&format!("\u{1b}[{}A\u{1b}[J", SHOWN + 2)), "{shown:?}");
    let (rest, _) = terminal.end();
    assert!(rest.contains("credstore shown once") && !rest.contains(KEY), "{rest}");

    // Who does not type it right has it taken off the screen too, and is told.
    let mut terminal = Terminal::child("key");
    for _ in 0..3 {
        terminal.expect("type its last group: ");
        terminal.type_line("cbdefghi");
    }
    let shown = terminal.expect("NO: ");
    assert!(shown.contains(&format!("\u{1b}[{}A\u{1b}[J", SHOWN + 3)), "{shown:?}");
    assert!(shown.contains("was taken off the screen"), "{shown:?}");
    let (rest, _) = terminal.end();
    assert!(rest.contains("was not written down") && !rest.contains(KEY), "{rest}");
}

/// `keystone` itself, interrupted while echo is off.
fn interrupt() {
    let sshd = common::sshd::Sshd::start();
    let locked = sshd.dir.path().join("locked");
    common::sshd::keygen(&locked, "ed25519", "correct horse");
    // A key that the machine would not take is not asked for.
    let authorized = sshd.dir.path().join("authorized_keys");
    std::fs::copy(locked.with_extension("pub"), authorized).unwrap();
    let print = keystone_controller::ssh::host_key::fingerprint(&sshd.host_key("ed25519"));
    let command = format!(
        "{} inventory {} -i {} --host-key {print} --agent /bin/cat; echo EXIT $?; stty -a",
        env!("CARGO_BIN_EXE_keystone"),
        sshd.destination(),
        locked.display()
    );
    let mut terminal = Terminal::run(&command);
    terminal.expect("Passphrase of");
    std::thread::sleep(Duration::from_millis(300));
    terminal.child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
    terminal.expect("interrupted; nothing was written");
    terminal.expect("EXIT 130");
    let (settings, _) = terminal.end();
    assert!(settings.contains(" echo ") && settings.contains(" icanon "), "{settings}");
}

fn host_key() {
    let sshd = common::sshd::Sshd::start();
    let print = keystone_controller::ssh::host_key::fingerprint(&sshd.host_key("ed25519"));
    let command = format!(
        "{} inventory {} -i {} --known-hosts /nonexistent --agent /bin/cat",
        env!("CARGO_BIN_EXE_keystone"),
        sshd.destination(),
        sshd.key().display()
    );
    for (answer, exit) in [("no", 69), ("yes", 71)] {
        let mut terminal = Terminal::run(&command);
        let shown = terminal.expect("Is it? (yes/no) ");
        assert!(shown.contains(&print), "{shown}");
        terminal.type_line(answer);
        // `cat` is no agent: who said yes gets as far as that.
        let (shown, status) = terminal.end();
        assert_eq!(status, exit, "{shown}");
    }
}

/// Who is not root there types the password of `sudo`, once, and it is on no screen.
fn sudo_password() {
    common::tool("sudo", "sudo");
    let rules = "printf 'alice ALL=(ALL) ALL\\n' > /etc/sudoers && mkdir -p /run/sshd";
    let keys = "mkdir /home/alice/.ssh && cp $SSHD_DIR/id.pub /home/alice/.ssh/authorized_keys";
    let doas = format!("mount --bind /dev/null {}", common::tool("doas", "opendoas").display());
    let setup = common::sshd::with_people(&format!("{rules} && {keys} && {doas}"));
    let sshd = common::sshd::Sshd::configured("UsePAM yes\n", Some(&setup));
    let print = keystone_controller::ssh::host_key::fingerprint(&sshd.host_key("ed25519"));
    let command = format!(
        "{} inventory alice@127.0.0.1:{} -i {} --host-key {print} --agent /bin/cat --ssh-config none",
        env!("CARGO_BIN_EXE_keystone"),
        sshd.port,
        sshd.key().display()
    );
    let question = "Password for sudo of alice@127.0.0.1";
    let mut terminal = Terminal::run(&command);
    terminal.expect(question);
    terminal.type_line("wren over ivy");
    terminal.expect(question);
    terminal.type_line("wren under ivy");
    // Root: `cat` is no agent.
    let (shown, status) = terminal.end();
    assert_eq!(status, 71, "{shown}");
    assert!(!shown.contains("ivy") && !shown.contains(question), "{shown}");
}

/// `keystone plan` for the fixture's machine.
fn plan_command() -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    format!(
        "{} plan --inventory {root}/planner/src/fixtures/machine.json --layout \
         {root}/tests/layouts/keystone/single-disk-root.json",
        env!("CARGO_BIN_EXE_keystone")
    )
}

fn progress_command() -> String {
    format!("{} child progress", std::env::current_exe().unwrap().display())
}

/// What a command shows on a terminal of so many columns, with more in its environment.
fn shown(command: &str, columns: usize, environment: &str) -> String {
    let at = format!("stty cols {columns} rows 50; cd /; env -u NO_COLOR {environment} {command}");
    let (shown, status) = Terminal::run(&at).end();
    assert_eq!(status, 0, "{shown}");
    shown
}

/// The lines, each as it was at its longest: without what moves the cursor and emphasises.
fn lines(shown: &str) -> Vec<String> {
    shown.split(['\r', '\n']).map(|line| console::strip_ansi_codes(line).into_owned()).collect()
}

/// Whether anything is emphasised: escape sequences that end with `m`.
fn is_coloured(shown: &str) -> bool {
    shown.split("\x1b[").skip(1).any(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(rest.len());
        rest[end..].starts_with('m')
    })
}

fn fits() {
    for columns in [80, 140] {
        let plan = shown(&plan_command(), columns, "TERM=xterm");
        let lines = lines(&plan);
        let longest = lines.iter().max_by_key(|line| line.chars().count()).unwrap();
        assert!(longest.chars().count() <= columns, "{columns} columns: {longest:?}");
        // It does use what there is.
        assert!(longest.chars().count() > columns / 2, "{columns} columns: {longest:?}");

        let screen = screen(&shown(&progress_command(), columns, "TERM=xterm"), columns);
        let begins = |words: &str| screen.lines().any(|line| line.starts_with(words));
        assert!(begins("! a warning that is longer"), "{columns} columns:\n{screen}");
        let finished = screen.lines().find(|line| line.contains("receive the closure: 312 paths"));
        assert!(finished.is_some_and(|line| line.ends_with(" s)")), "{columns} columns:\n{screen}");
        // What is broken is broken at spaces, and indented.
        assert_eq!(begins("  at spaces instead of"), columns == 80, "{columns} columns:\n{screen}");
        assert!(screen.lines().count() <= 4, "what was drawn stayed:\n{screen}");
    }
}

/// What is on a screen of so many columns after all of that.
fn screen(shown: &str, columns: usize) -> String {
    let screen = indicatif::InMemoryTerm::new(50, columns as u16);
    indicatif::TermLike::write_str(&screen, shown).unwrap();
    screen.contents()
}

fn colours() {
    for command in [plan_command(), progress_command()] {
        assert!(is_coloured(&shown(&command, 80, "TERM=xterm")), "{command}");
        for environment in ["TERM=xterm NO_COLOR=1", "TERM=dumb"] {
            let shown = shown(&command, 80, environment);
            assert!(!is_coloured(&shown), "{environment}: {shown:?}");
        }
        // Into a file or a pipe.
        let shown = shown(&format!("{command} 2>&1 | cat"), 80, "TERM=xterm");
        assert!(!is_coloured(&shown), "{shown:?}");
    }
}
