//! Every program that is executed anywhere in a guest, as its kernel saw it.
//!
//! The kernel's own tracepoints do it (`sched_process_exec`, `sched_process_fork`
//! and the ends of `chroot` and `pivot_root`), so nothing is added to the guest
//! and nothing can be run past it, whoever its parent is. Numbers of processes
//! are those of the first PID namespace; threads appear as processes of their own.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use super::ssh::Ssh;

const TRACEFS: &str = "/sys/kernel/tracing";

const EVENTS: &[&str] = &[
    "sched/sched_process_exec",
    "sched/sched_process_fork",
    "syscalls/sys_exit_chroot",
    "syscalls/sys_exit_pivot_root",
];

/// A program that was executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The process.
    pub pid: u32,
    /// The path it was called by, as seen in its own root.
    pub program: String,
    /// Whether it, or a process it comes from, had changed its root before.
    pub in_other_root: bool,
}

/// What happened, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    Exec { pid: u32, old_pid: u32, program: String },
    Fork { parent: u32, child: u32 },
    RootChanged { pid: u32 },
}

/// All that was executed from [`start`] to [`stop`].
#[derive(Debug, Clone)]
pub struct Trace {
    events: Vec<Event>,
}

/// Begins to trace the whole guest, forgetting what was traced before.
///
/// # Errors
/// The guest's kernel has no such tracepoints, or SSH failed.
pub fn start(ssh: &Ssh) -> Result<()> {
    let enable: String = EVENTS.iter().map(|e| format!("echo 1 > events/{e}/enable; ")).collect();
    ssh.ok(&format!(
        "set -e; cd {TRACEFS}; echo 0 > tracing_on; echo 16384 > buffer_size_kb; echo > trace; \
         {enable} echo 1 > tracing_on"
    ))
    .context("starting to trace what the guest executes")?;
    Ok(())
}

/// Ends it and returns what was seen.
///
/// # Errors
/// Events were lost, a line is not understood, or SSH failed.
pub fn stop(ssh: &Ssh) -> Result<Trace> {
    let text = ssh
        .ok(&format!("set -e; cd {TRACEFS}; echo 0 > tracing_on; cat trace"))
        .context("reading what the guest executed")?;
    Trace::parse(&text)
}

impl Trace {
    /// Reads the kernel's text form of the events.
    ///
    /// # Errors
    /// Events were lost, or a line is not understood.
    pub fn parse(text: &str) -> Result<Trace> {
        let mut events = Vec::new();
        let mut counted = false;
        for line in text.lines() {
            if let Some((_, counts)) = line.split_once("entries-in-buffer/entries-written: ") {
                let counts = counts.split_whitespace().next().unwrap_or_default();
                let (kept, written) = counts.split_once('/').context("a count of events")?;
                ensure!(kept == written, "of {written} events only {kept} were kept");
                counted = true;
            }
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            ensure!(!line.contains("LOST"), "events were lost: {line}");
            let event = parse_line(line).with_context(|| format!("not understood: {line}"))?;
            events.extend(event);
        }
        ensure!(counted, "this is no trace: it does not count its events");
        Ok(Trace { events })
    }

    /// What was executed by processes that come from an execution of a program
    /// whose path satisfies `is_root`, that execution included.
    pub fn below(&self, is_root: impl Fn(&str) -> bool) -> Vec<Exec> {
        let mut tree: BTreeSet<u32> = BTreeSet::new();
        let mut other_root: BTreeMap<u32, bool> = BTreeMap::new();
        let mut found = Vec::new();
        for event in &self.events {
            match event {
                Event::Fork { parent, child } => {
                    // Numbers are used again: the newest bearer counts.
                    if tree.contains(parent) {
                        tree.insert(*child);
                    } else {
                        tree.remove(child);
                    }
                    let inherited = other_root.get(parent).copied().unwrap_or(false);
                    other_root.insert(*child, inherited);
                }
                Event::RootChanged { pid } => {
                    other_root.insert(*pid, true);
                }
                Event::Exec { pid, old_pid, program } => {
                    let in_other_root = other_root.get(old_pid).copied().unwrap_or(false);
                    other_root.insert(*pid, in_other_root);
                    if tree.contains(old_pid) || tree.contains(pid) || is_root(program) {
                        tree.insert(*pid);
                        found.push(Exec { pid: *pid, program: program.clone(), in_other_root });
                    }
                }
            }
        }
        found
    }

    /// Every execution, as (process, path).
    pub fn all(&self) -> Vec<(u32, &str)> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Exec { pid, program, .. } => Some((*pid, program.as_str())),
                _ => None,
            })
            .collect()
    }
}

/// `comm-pid [cpu] flags time: event: fields`; `None` for a change of root that failed.
fn parse_line(line: &str) -> Result<Option<Event>> {
    // The name of the task may hold anything, so what follows it is looked for from the time on.
    let (head, event) = split_time(line).context("no time")?;
    if let Some(fields) = event.strip_prefix("sched_process_exec: filename=") {
        let (rest, old_pid) = fields.rsplit_once(" old_pid=").context("no old_pid")?;
        let (program, pid) = rest.rsplit_once(" pid=").context("no pid")?;
        let exec = Event::Exec {
            pid: pid.parse()?,
            old_pid: old_pid.parse()?,
            program: program.to_owned(),
        };
        return Ok(Some(exec));
    }
    if let Some(fields) = event.strip_prefix("sched_process_fork: ") {
        let (rest, child) = fields.rsplit_once(" child_pid=").context("no child_pid")?;
        let (rest, _) = rest.rsplit_once(" child_comm=").context("no child_comm")?;
        let (_, parent) = rest.rsplit_once(" pid=").context("no pid")?;
        return Ok(Some(Event::Fork { parent: parent.parse()?, child: child.parse()? }));
    }
    for call in ["sys_chroot -> ", "sys_pivot_root -> "] {
        if let Some(result) = event.strip_prefix(call) {
            let (task, _) = head.rsplit_once('[').context("no processor")?;
            let (_, pid) = task.trim_end().rsplit_once('-').context("no process")?;
            let succeeded = result.trim() == "0x0";
            return Ok(succeeded.then_some(Event::RootChanged { pid: pid.parse()? }));
        }
    }
    bail!("no event that was asked for")
}

/// Splits `… seconds.micros: event` at the first such time that follows `[cpu]`.
fn split_time(line: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    while let Some(at) = line[from..].find(": ").map(|at| from + at) {
        let time = line[..at].rsplit(' ').next().unwrap_or_default();
        let is_time = time.split_once('.').is_some_and(|(s, us)| {
            s.parse::<u64>().is_ok() && us.len() == 6 && us.parse::<u32>().is_ok()
        });
        if is_time {
            return Some((&line[..at], &line[at + 2..]));
        }
        from = at + 2;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.12 prints it.
    const TEXT: &str = "\
# tracer: nop
#
# entries-in-buffer/entries-written: 12/12   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
            sshd-388     [000] .....    83.800000: sched_process_fork: comm=sshd pid=388 child_comm=sshd child_pid=390
  keystone-agent-390     [000] .....    83.883818: sched_process_exec: filename=/run/k/keystone-agent pid=390 old_pid=390
  keystone-agent-390     [000] .....    83.896826: sched_process_fork: comm=keystone-agent pid=390 child_comm=tokio: a-b child_pid=391
     tokio: a-b-391      [001] .....    84.174281: sched_process_fork: comm=tokio: a-b pid=391 child_comm=tokio: a-b child_pid=395
       mkfs.ext4-395     [000] .....    84.206926: sched_process_exec: filename=/usr/sbin/mkfs.ext4 pid=395 old_pid=395
            bash-388     [000] .....    84.289299: sched_process_fork: comm=bash pid=388 child_comm=bash child_pid=397
              ls-397     [000] .....    84.296273: sched_process_exec: filename=/usr/bin/ls pid=397 old_pid=397
  keystone-agent-390     [000] .....    84.400717: sched_process_fork: comm=keystone-agent pid=390 child_comm=keystone-agent child_pid=398
  keystone-agent-398     [000] ...1.    84.404809: sys_chroot -> 0x0
     tokio: a-b-391      [000] ...1.    84.404809: sys_chroot -> 0xfffffffffffffffe
        activate-398     [000] .....    84.411057: sched_process_exec: filename=/nix/store/x y/activate pid=398 old_pid=398
     tokio: a-b-391      [000] .....    84.480952: sched_process_exec: filename=/bin/true pid=391 old_pid=391
";

    #[test]
    fn the_tree_of_a_program_is_found() {
        let trace = Trace::parse(TEXT).unwrap();
        let below = trace.below(|program| program.ends_with("/keystone-agent"));
        let exec = |pid, program: &str, in_other_root| Exec {
            pid,
            program: program.to_owned(),
            in_other_root,
        };
        let wanted = [
            exec(390, "/run/k/keystone-agent", false),
            exec(395, "/usr/sbin/mkfs.ext4", false),
            exec(398, "/nix/store/x y/activate", true),
            exec(391, "/bin/true", false),
        ];
        assert_eq!(below, wanted);
        assert_eq!(trace.all().len(), 5);
    }

    #[test]
    fn lost_events_and_strange_lines_are_errors() {
        assert!(Trace::parse(&TEXT.replace("12/12", "12/99")).is_err());
        assert!(Trace::parse(&TEXT.replace("sys_chroot", "sys_mount")).is_err());
        assert!(Trace::parse("").is_err());
    }
}
