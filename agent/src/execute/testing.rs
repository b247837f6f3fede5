//! What tests of the executor share: an execution that nobody gives anything, on a disk to write.

use super::Execution;
use super::cancel::Cancel;
use super::journal::Journal;
use super::machine::Machine;
use super::supplies::{EventSink, Supplies, SupplyError};
use crate::store::{Block, ClosureSource, SourceError};
use crate::testing::Loop;
use keystone_protocol::event::Event;
use keystone_protocol::inventory::Inventory;
use keystone_protocol::manifest::Manifest;
use keystone_protocol::message::Wanted;
use keystone_protocol::plan::Plan;
use keystone_protocol::secret::Secret;
use std::collections::VecDeque;

const MACHINE: &str = include_str!("../../../planner/src/fixtures/machine.json");
const LAYOUT: &str = include_str!("../../../tests/layouts/keystone/single-disk-root.json");

/// The plan of a layout with the one disk `root`.
pub(super) fn plan() -> Plan {
    let inventory: Inventory = serde_json::from_str(MACHINE).unwrap();
    crate::plan::plan_with(&inventory, LAYOUT, &Default::default(), None).unwrap()
}

/// The machine of [`plan`], whose disk is `disk`.
pub(super) fn machine(plan: &Plan, disk: &Loop) -> Machine {
    let mut inventory: Inventory = serde_json::from_str(MACHINE).unwrap();
    let root = &plan.basis.disks["root"];
    let found = inventory.disks.iter_mut().find(|found| found.identity == *root).unwrap();
    found.kernel_name = disk.name().to_owned();
    Machine::new(&inventory, plan)
}

/// Lets `act` run steps of `plan` on `machine`.
pub(super) fn with_execution<T>(
    plan: &Plan,
    machine: Machine,
    act: impl FnOnce(&mut Execution<'_>) -> T,
) -> T {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("journal.jsonl"), &plan.hash).unwrap();
    let manifest = Manifest { toplevel: String::new(), paths: Vec::new() };
    let (mut supplies, mut sink, cancel) = (Given::default(), Unheard, Cancel::default());
    act(&mut Execution::new(plan, &manifest, machine, &mut supplies, &mut sink, &cancel, journal))
}

/// Where events vanish.
struct Unheard;

impl EventSink for Unheard {
    fn emit(&mut self, _: Event) {}
}

/// Blocks, and nothing else.
#[derive(Default)]
pub(super) struct Given(pub(super) VecDeque<Block>);

impl ClosureSource for Given {
    fn want(&mut self, _: &[Wanted]) -> Result<(), SourceError> {
        Err("there is no closure".into())
    }

    fn next_block(&mut self) -> Result<Block, SourceError> {
        self.0.pop_front().ok_or_else(|| "asked for too many blocks".into())
    }
}

impl Supplies for Given {
    fn password(&self) -> Option<&Secret> {
        None
    }

    fn pin(&self) -> Option<&Secret> {
        None
    }

    fn key_file(&self, _: &str) -> Option<&Secret> {
        None
    }

    fn host_keys(&self) -> &[Secret] {
        &[]
    }

    fn want_extra_files(&mut self) -> Result<(), SupplyError> {
        Ok(())
    }

    fn keep_recovery_key(&mut self, _: &str, _: &Secret) -> Result<(), SupplyError> {
        Ok(())
    }
}
