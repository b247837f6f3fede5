//! The system's programs in their namespaces, with a small real root: busybox and shell scripts
//! that do what NixOS's do. Needs root, as the agent does.

mod target;

use keystone_agent::activation::{self, ActivationError, Limits, Phase, System};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use target::Target;

type Said = Vec<(Phase, String)>;

/// Runs the target's programs: its warnings, and what was printed.
fn run(target: &Target) -> (Result<Vec<String>, ActivationError>, Said) {
    let mut lines = Vec::new();
    let never = AtomicBool::new(false);
    let result = activation::run(
        &target.system(),
        &mut |phase, line| lines.push((phase, line.to_owned())),
        &never,
    );
    (result.map(|done| done.warnings), lines)
}

/// What the programs printed about `key`.
fn said<'a>(lines: &'a [(Phase, String)], key: &str) -> Vec<(Phase, &'a str)> {
    lines.iter().filter_map(|(p, l)| Some((*p, l.strip_prefix(key)?.trim()))).collect()
}

#[test]
fn runs_the_programs_as_nixos_enter_does() {
    let target = Target::new();
    let tell = r#"
        echo "pid1 $(cat /proc/1/comm)"; echo "user $(id -u)"
        echo "env $(env | grep -v '^_=\|^SHLVL=\|^PWD=' | cut -d= -f1 | sort | tr '\n' ' ')"
        echo "mounts $(cut -d' ' -f2,3 /proc/mounts | grep '^/\(proc\|run\|dev\|sys\) ' | tr '\n' ';')"
        echo "run $(ls -A /run | wc -l)"; echo "stdin $(wc -c)"; echo "fds $(ls /proc/self/fd | wc -w)"
    "#;
    target.script(
        "activate",
        &format!(
            "{tell}\necho $IN_NIXOS_ENTER $LOCALE_ARCHIVE >/run/env; ln -s $TOP /run/current-system"
        ),
    );
    target.script("sw/bin/systemd-tmpfiles", r#"echo "args $*"; mkdir -p /tmp; echo "pidns $$""#);
    target.script(
        "bin/switch-to-configuration",
        &format!(
            r#"{tell}
            echo "args $*"; echo "install $NIXOS_INSTALL_BOOTLOADER"; echo "env2 $(cat /run/env)"
            echo "system $(readlink /run/current-system)"; echo "mtab $(readlink /etc/mtab)"
            echo "alias $(ls {root} | tr '\n' ' ')"; echo to stderr >&2; echo made > {root}/made; hostname of-the-chroot"#,
            root = target.root().display()
        ),
    );
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let (result, lines) = run(&target);
    assert_eq!(result.unwrap(), Vec::<String>::new(), "{lines:?}");
    use Phase::{Activate, Bootloader, Tmpfiles};
    assert_eq!(said(&lines, "user "), [(Activate, "0"), (Bootloader, "0")]);
    assert_eq!(
        said(&lines, "env "),
        [
            (Activate, "HOME IN_NIXOS_ENTER LOCALE_ARCHIVE PATH"),
            (Bootloader, "HOME NIXOS_INSTALL_BOOTLOADER PATH")
        ]
    );
    for (_, mounts) in said(&lines, "mounts ") {
        for mount in ["/proc proc", "/run tmpfs", "/dev devtmpfs", "/sys sysfs"] {
            assert!(mounts.contains(mount), "{mount} in {mounts}");
        }
    }
    assert_eq!(said(&lines, "run "), [(Activate, "0"), (Bootloader, "2")]);
    assert_eq!(said(&lines, "stdin "), [(Activate, "0"), (Bootloader, "0")]);
    // 0, 1, 2, and what `ls` reads: nothing of the agent's.
    assert_eq!(said(&lines, "fds "), [(Activate, "4"), (Bootloader, "4")]);
    assert_eq!(said(&lines, "args "), [(Tmpfiles, "--create --remove -E"), (Bootloader, "boot")]);
    assert_eq!(said(&lines, "install "), [(Bootloader, "1")]);
    let locale = format!("1 {}/sw/lib/locale/locale-archive", target.toplevel());
    assert_eq!(said(&lines, "env2 "), [(Bootloader, locale.as_str())]);
    assert_eq!(said(&lines, "system "), [(Bootloader, target.toplevel())]);
    assert_eq!(said(&lines, "mtab "), [(Bootloader, "/proc/mounts")]);
    assert!(lines.contains(&(Bootloader, "to stderr".to_owned())));
    assert_eq!(said(&lines, "pidns ").len(), 1);
    assert!(
        said(&lines, "pidns ")[0].1.parse::<u32>().unwrap() < 200,
        "a PID namespace of its own"
    );
    // Inside, the root is at the path that it has outside; and of that nothing stays.
    let inside = said(&lines, "alias ");
    assert!(inside[0].1.starts_with("bin dev etc nix proc run sys"), "{inside:?}");
    assert_eq!(std::fs::read_to_string(target.root().join("made")).unwrap(), "made\n");
    assert!(!target.root().join(target.root().strip_prefix("/").unwrap()).exists());
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), hostname);
    target.assert_nothing_mounted();
    assert!(!target.root().join("etc/machine-id").exists());
    for dir in ["run", "proc", "sys", "dev"] {
        assert_eq!(std::fs::read_dir(target.root().join(dir)).unwrap().count(), 0, "{dir}");
    }
}

#[test]
fn failures_before_the_boot_loader_are_warnings() {
    let target = Target::new();
    target.script("activate", "echo something is wrong >&2; exit 3");
    target.script("bin/switch-to-configuration", "echo installed");
    let (result, lines) = run(&target);
    let warnings = result.unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert_eq!(
        warnings[0],
        "the system's activate ended with status 3, saying `something is wrong`"
    );
    assert!(warnings[1].starts_with("the system's systemd-tmpfiles could not be started"));
    assert_eq!(lines.last().unwrap(), &(Phase::Bootloader, "installed".to_owned()));
}

#[test]
fn the_boot_loaders_failure_is_one_with_its_last_lines() {
    let target = Target::new();
    target.script("activate", "");
    target.script("sw/bin/systemd-tmpfiles", "");
    target
        .script("bin/switch-to-configuration", "for i in $(seq 40); do echo line $i; done; exit 1");
    let (result, lines) = run(&target);
    assert_eq!(lines.len(), 40);
    match result.unwrap_err() {
        ActivationError::Program { phase: Phase::Bootloader, last, ended } => {
            assert_eq!((last.len(), last.last().unwrap().as_str()), (15, "line 40"));
            assert_eq!(ended.to_string(), "ended with status 1");
        }
        other => panic!("{other}"),
    }
    target.script("bin/switch-to-configuration", "kill -SEGV $$");
    let error = run(&target).0.unwrap_err().to_string();
    assert!(error.starts_with("switch-to-configuration boot was killed by SIGSEGV"), "{error}");
    std::fs::remove_file(target.path("bin/switch-to-configuration")).unwrap();
    let error = run(&target).0.unwrap_err().to_string();
    assert!(error.contains("could not be started"), "{error}");
    target.assert_nothing_mounted();
}

#[test]
fn processes_left_behind_end_with_it() {
    let target = Target::new();
    // A daemon in a session of its own that ignores every signal it can, and holds the output.
    let daemon = "trap '' HUP TERM INT; (setsid sh -c 'trap \"\" HUP TERM INT; while :; do sleep 1234; done' &)";
    target.script("activate", daemon);
    target.script("sw/bin/systemd-tmpfiles", "");
    // It lives until the boot loader is installed, as under nixos-enter.
    target.script(
        "bin/switch-to-configuration",
        "for i in $(seq 50); do ps -o args | grep '^sleep 1234' && exit 0; sleep 0.1; done; exit 1",
    );
    let (result, lines) = run(&target);
    result.unwrap();
    assert_eq!(lines, [(Phase::Bootloader, "sleep 1234".to_owned())]);
    assert_eq!(target.processes(), Vec::<String>::new());
    target.assert_nothing_mounted();
}

#[test]
fn cancelling_and_time_limits_end_everything() {
    let target = Target::new();
    target.script("activate", "trap '' TERM; echo begun; sleep 1000");
    let began = Instant::now();
    let cancel = AtomicBool::new(false);
    let result = activation::run(
        &target.system(),
        &mut |_, line| cancel.store(line == "begun", Ordering::Relaxed),
        &cancel,
    );
    assert!(matches!(result, Err(ActivationError::Cancelled)), "{result:?}");
    assert_eq!(target.processes(), Vec::<String>::new());
    let limits = Limits { activate: Duration::from_secs(1), ..Limits::default() };
    let system = System { limits, ..target.system() };
    let error = activation::run(&system, &mut |_, _| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("activate took longer than 1 s"), "{error}");
    assert!(error.to_string().contains("begun"), "{error}");
    assert_eq!(target.processes(), Vec::<String>::new());
    assert!(began.elapsed() < Duration::from_secs(30));
    target.assert_nothing_mounted();
}

#[test]
fn the_keeper_does_not_outlive_the_agent() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let target = Target::new();
    target.script("activate", "sleep 4321");
    for kill_keeper in [false, true] {
        let system = target.system();
        let mut keeper = Command::new(&system.agent)
            .arg(activation::SUBCOMMAND)
            .args([system.root.as_os_str(), system.toplevel.as_ref()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        keeper.stdin.as_mut().unwrap().write_all(&[b'0'; 32]).unwrap();
        target.wait_for("sleep 4321 to run", || !target.processes().is_empty());
        if kill_keeper {
            keeper.kill().unwrap();
        } else {
            // What the kernel does with the pipe of an agent that is killed.
            drop(keeper.stdin.take());
        }
        keeper.wait().unwrap();
        target.wait_for("everything to end", || target.processes().is_empty());
    }
}

#[test]
fn a_root_that_is_not_there_is_said() {
    let target = Target::new();
    let system = System { root: "/nonexistent/target".into(), ..target.system() };
    let error = activation::run(&system, &mut |_, _| {}, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(&error, ActivationError::Enter(_)), "{error}");
    assert!(error.to_string().contains("/nonexistent/target"), "{error}");
}
