//! What counts as agreement.
//!
//! Three ways, each of which names what it agrees to: the operator types the host and the disks'
//! stable names; or gives the hash of the plan that was looked at before; or the exact set of
//! disks. Nothing else is a yes.

use crate::operator::OperatorError;
use keystone_protocol::inventory::DiskIdentity;
use keystone_protocol::plan::Plan;
use std::collections::BTreeSet;

/// How the operator agrees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consent {
    /// By typing, at a terminal.
    Typed,
    /// To the plan of this hash.
    PlanHash(String),
    /// To writing exactly these disks, by stable name.
    Disks(Vec<String>),
    /// Nobody can be asked and nothing was given.
    Impossible,
}

impl Consent {
    /// Agreement that was given beforehand; `Ok(false)` if it still has to be typed.
    pub fn given(&self, plan: &Plan) -> Result<bool, OperatorError> {
        let no = |why: String| Err(OperatorError::NotConfirmed(why));
        match self {
            Consent::Typed => Ok(false),
            Consent::PlanHash(hash) if hash.eq_ignore_ascii_case(&plan.hash) => Ok(true),
            Consent::PlanHash(hash) => no(format!(
                "the plan's hash is {}, not {hash}: look at the plan with --dry-run, and give \
                 its hash if you agree",
                plan.hash
            )),
            Consent::Disks(given) => {
                let wanted = disks(plan);
                let unknown = given.iter().find(|g| !wanted.iter().any(|disk| names(disk, g)));
                let missing = wanted.iter().find(|disk| !given.iter().any(|g| names(disk, g)));
                match (unknown, missing) {
                    (None, None) => Ok(true),
                    (Some(given), _) => no(format!(
                        "--disk-id {given} is not a disk of this plan (it writes {})",
                        list(&wanted)
                    )),
                    (None, Some(disk)) => {
                        no(format!("the plan also writes {}, which no --disk-id names", disk.name))
                    }
                }
            }
            Consent::Impossible => no(format!(
                "there is no terminal to confirm at: look at the plan with --dry-run and agree \
                 to it with --yes --plan-hash {} or with --yes --disk-id ID for every disk ({})",
                plan.hash,
                list(&disks(plan))
            )),
        }
    }
}

/// The disks that the plan writes.
pub fn disks(plan: &Plan) -> Vec<&DiskIdentity> {
    let all: BTreeSet<&DiskIdentity> =
        plan.basis.disks.values().chain(plan.basis.destroys.iter().map(|d| &d.identity)).collect();
    all.into_iter().collect()
}

/// Whether `text` is the disk's stable name, in full or without its directory.
pub fn names(disk: &DiskIdentity, text: &str) -> bool {
    let short = disk.name.rsplit_once('/').map_or(disk.name.as_str(), |(_, short)| short);
    text == disk.name || text == short
}

fn list(disks: &[&DiskIdentity]) -> String {
    disks.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>().join(", ")
}
