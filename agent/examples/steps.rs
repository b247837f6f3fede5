//! Runs steps of a plan by hand, as the planner would write them down: for seeing what each of
//! them does on a machine's disks.
//!
//! ```text
//! steps FILE     {"disks": {"main": "SERIAL"}, "password": "…", "steps": [ACTION, …]}
//! ```
//!
//! Prints a line for each step that ended (`0 make-swap Created 12 ms`), what programs said, and
//! at a failure what is left, and exits with 1.

use anyhow::{Context, Result, bail};
use keystone_agent::execute::Execution;
use keystone_agent::execute::cancel::Cancel;
use keystone_agent::execute::journal::Journal;
use keystone_agent::execute::machine::Machine;
use keystone_agent::execute::supplies::{EventSink, Supplies, SupplyError};
use keystone_agent::inventory;
use keystone_agent::store::{Block, ClosureSource, SourceError};
use keystone_protocol::event::{Event, EventKind};
use keystone_protocol::manifest::Manifest;
use keystone_protocol::message::Wanted;
use keystone_protocol::plan::{Action, Basis, Plan, Step};
use keystone_protocol::secret::Secret;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Deserialize)]
struct Request {
    /// The plan's names of disks: serial numbers.
    disks: BTreeMap<String, String>,
    password: Option<String>,
    steps: Vec<Action>,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_writer(std::io::stderr)
        .init();
    let file = std::env::args().nth(1).context("name a file: see agent/examples/steps.rs")?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
    let request: Request = serde_json::from_str(&text).context("reading the steps")?;
    let inventory = inventory::collect()?;
    let mut disks = BTreeMap::new();
    for (name, serial) in &request.disks {
        let found = inventory
            .disks
            .iter()
            .find(|disk| disk.identity.serial.as_ref() == Some(serial))
            .with_context(|| format!("no disk has the serial number {serial}"))?;
        disks.insert(name.clone(), found.identity.clone());
    }
    let steps = request.steps.into_iter().enumerate().map(|(index, action)| {
        let said = serde_json::to_value(&action).unwrap_or_default();
        let title = said["do"].as_str().unwrap_or("step").to_owned();
        Step { id: format!("{index} {title}"), title, action }
    });
    let plan = Plan {
        basis: Basis {
            layout: String::new(),
            options: Default::default(),
            toplevel: String::new(),
            disks,
            destroys: Vec::new(),
            steps: Vec::new(),
        },
        hash: "by hand".to_owned(),
        steps: steps.collect(),
        containers: Vec::new(),
        notes: Vec::new(),
        warnings: Vec::new(),
    };
    let manifest = Manifest { toplevel: String::new(), paths: Vec::new() };
    let machine = Machine::new(&inventory, &plan);
    let journal = Journal::open(Path::new("/run/keystone/by-hand.jsonl"), &plan.hash)?;
    let cancel = Cancel::default();
    let mut supplies = Given { password: request.password.map(Secret::from) };
    let mut sink = Print;
    let mut execution =
        Execution::new(&plan, &manifest, machine, &mut supplies, &mut sink, &cancel, journal);
    match execution.run() {
        Ok(_) => Ok(()),
        Err(failure) => bail!(
            "{}: {}; left: {}",
            failure.message,
            failure.causes.join(": "),
            failure.left.join("; ")
        ),
    }
}

struct Given {
    password: Option<Secret>,
}

impl ClosureSource for Given {
    fn want(&mut self, _: &[Wanted]) -> Result<(), SourceError> {
        unreachable!("no closure is received by hand")
    }

    fn next_block(&mut self) -> Result<Block, SourceError> {
        unreachable!("no closure is received by hand")
    }
}

impl Supplies for Given {
    fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    fn pin(&self) -> Option<&Secret> {
        None
    }

    fn unlock_key(&mut self, container: &str, tried: &[String]) -> Result<Secret, SupplyError> {
        if tried.len() > 3 {
            return Err(SupplyError(format!("{container}: {}", tried.join("; "))));
        }
        self.password.clone().ok_or_else(|| SupplyError(format!("no password for {container}")))
    }

    fn key_file(&self, _: &str) -> Option<&Secret> {
        None
    }

    fn host_keys(&self) -> &[Secret] {
        &[]
    }

    fn want_extra_files(&mut self) -> Result<(), SupplyError> {
        Err(SupplyError("there are no extra files by hand".to_owned()))
    }

    /// Where a test finds it: in memory, for root alone.
    fn keep_recovery_key(&mut self, container: &str, key: &Secret) -> Result<(), SupplyError> {
        let path = format!("/run/keystone/recovery-{container}");
        std::fs::write(&path, key.expose()).map_err(|error| SupplyError(format!("{path}: {error}")))
    }
}

struct Print;

impl EventSink for Print {
    fn emit(&mut self, event: Event) {
        match event.kind {
            EventKind::StepFinished { step, outcome, elapsed_ms } => {
                println!("{step} {outcome:?} {elapsed_ms} ms");
            }
            EventKind::Output { step, line } => println!("  {step}: {line}"),
            EventKind::Warning { step, message } => println!("  {step}: WARNING {message}"),
            EventKind::StepFailed { step, .. } => println!("{step} FAILED"),
            _ => {}
        }
    }
}
