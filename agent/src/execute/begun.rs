//! An installation that is done phase by phase, or whose connection broke: what one agent leaves
//! for the next.
//!
//! It lies in `/run/keystone` of the running installer and is gone with it, as are the open
//! containers and loaded keys that it speaks of. It holds no secret.

use super::machine::MachineState;
use keystone_protocol::layout::Layout;
use keystone_protocol::message::{PlanRequest, Refusal, RefusalKind};
use keystone_protocol::phase::Phases;
use keystone_protocol::plan::Plan;
use keystone_protocol::report::Report;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where it lies.
pub const BEGUN: &str = "/run/keystone/begun.json";

/// It can't be read or written.
#[derive(Debug, Error)]
#[error("{action} {}", path.display())]
pub struct BegunError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// An installation that was begun.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begun {
    /// Its plan.
    pub plan: Plan,
    /// Whether everything of the plan is done.
    pub done: bool,
    /// What the plan's names are on this machine.
    pub machine: MachineState,
    /// What was done so far.
    pub report: Report,
}

impl Begun {
    /// What was left at `path`, if anything was.
    pub fn read(path: &Path) -> Result<Option<Begun>, BegunError> {
        let fail = |source| BegunError { action: "reading", path: path.to_owned(), source };
        match fs::read(path) {
            Ok(json) => serde_json::from_slice(&json).map(Some).map_err(|e| fail(e.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Leaves it at `path`, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), BegunError> {
        let fail = |source| BegunError { action: "writing", path: path.to_owned(), source };
        let json =
            serde_json::to_vec(self).expect("what was begun has no type that JSON can't hold");
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
        }
        let partial = path.with_extension("new");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&partial)
            .map_err(fail)?;
        file.write_all(&json).and_then(|()| file.sync_all()).map_err(fail)?;
        fs::rename(&partial, path).map_err(fail)
    }

    /// Forgets what was left at `path`: it is not so any more.
    pub fn forget(path: &Path) -> Result<(), BegunError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(BegunError { action: "removing", path: path.to_owned(), source: error })
            }
            _ => Ok(()),
        }
    }

    /// Whether `request`, which leaves the first phase out, goes on with this. Choices that only
    /// the first phase obeys are not asked for again.
    pub fn goes_on_with(&self, request: &PlanRequest) -> Result<(), Refusal> {
        match (request.phases, self.done) {
            (Phases { install: true, .. }, true) => {
                return Err(wrong_order(
                    "the phase install has run already, and everything is sealed".to_owned(),
                    "restart the machine with --phases reboot, or begin anew with --phases \
                     disko,install --erase",
                ));
            }
            (Phases { install: false, .. }, false) => {
                return Err(wrong_order(
                    "the phase install has not run: the disks are made, but nothing is in them"
                        .to_owned(),
                    "run it with --phases install, or both with --phases install,reboot",
                ));
            }
            _ => {}
        }
        let (began, asked) = (&self.plan.basis, &request.options);
        let layout = Layout::parse(&request.layout).map(|layout| layout.canonical().to_owned());
        let difference = if layout.ok().as_ref() != Some(&began.layout) {
            Some("another layout")
        } else if request.closure.as_ref().map(|closure| &closure.toplevel) != Some(&began.toplevel)
        {
            Some("another system")
        } else if asked.extra_files != began.options.extra_files {
            Some("other extra files")
        } else if asked.chown != began.options.chown {
            Some("other owners (--chown)")
        } else if asked.host_keys != began.options.host_keys {
            Some("other SSH host keys")
        } else {
            None
        };
        match difference {
            None if self.plan.is_consistent() => Ok(()),
            None => Err(wrong_order(
                format!("the plan in {BEGUN} was changed"),
                "begin anew with --phases disko,install --erase",
            )),
            Some(difference) => Err(Refusal {
                kind: RefusalKind::PlanChanged,
                message: format!(
                    "the plan that was begun (hash {}, system {}) has {difference}",
                    self.plan.hash, began.toplevel
                ),
                hint: Some(
                    "give the options that the phase disko was given, or begin anew with --phases \
                     disko,install --erase"
                        .to_owned(),
                ),
            }),
        }
    }
}

/// Nothing was begun.
pub fn nothing_begun(phases: Phases) -> Refusal {
    let (message, hint) = match phases.install {
        true => (
            "the phase disko has not run since this installer was started, so there is nothing to \
             install into",
            "run it first (--phases disko), or both (--phases disko,install)",
        ),
        false => (
            "nothing was installed since this installer was started, so the machine is not \
             restarted",
            "run the phases disko and install first",
        ),
    };
    wrong_order(message.to_owned(), hint)
}

fn wrong_order(message: String, hint: &str) -> Refusal {
    Refusal { kind: RefusalKind::TargetUnfit, message, hint: Some(hint.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::execute::machine::Machine;
    use keystone_protocol::inventory::Inventory;
    use keystone_protocol::options::{ClosureFacts, InstallOptions};
    use keystone_protocol::report::EndsAt;

    const LAYOUT: &str = include_str!("../../../tests/layouts/keystone/single-disk-root.json");
    const INSTALL: Phases = Phases { disko: false, install: true };

    fn request(phases: Phases) -> PlanRequest {
        let mount = |source: &str, target: &str, fstype: &str| serde_json::json!({"source": source, "target": target, "fstype": fstype, "options": []});
        let closure: ClosureFacts = serde_json::from_value(serde_json::json!({
            "toplevel": "/nix/store/0c1pq9l1v2gqq4fhvqzs9mh2gqzs4xz1-nixos-system-vault-25.05",
            "system": "x86_64-linux", "paths": 612, "nar_bytes": 1_932_735_283u64,
            "boot_bytes": 58_720_256, "hostid": 7, "hostname": "vault", "zfs_version": "2.3.4",
            "enrols_secure_boot_keys": false,
            "fstab": [
                mount("rpool/crypt/system", "/", "zfs"), mount("rpool/crypt/system/nix", "/nix", "zfs"),
                mount("rpool/crypt/system/var", "/var", "zfs"),
                mount("/dev/disk/by-partlabel/disk-root-ESP", "/boot", "vfat"),
            ],
        }))
        .unwrap();
        PlanRequest {
            layout: LAYOUT.into(),
            options: InstallOptions::default(),
            closure: Some(closure),
            phases,
        }
    }

    fn begun(done: bool) -> Begun {
        let inventory: Inventory =
            serde_json::from_str(include_str!("../../../planner/src/fixtures/machine.json"))
                .unwrap();
        let PlanRequest { layout, options, closure, .. } = request(Phases::ALL);
        let plan = crate::plan::plan_with(&inventory, &layout, &options, closure.as_ref()).unwrap();
        let machine = Machine::new(&inventory, &plan);
        let report = machine.report(&plan, &[], &[], EndsAt::Mounted);
        Begun { machine: machine.state(), plan, done, report }
    }

    #[test]
    fn what_one_agent_leaves_another_finds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/begun.json");
        assert!(Begun::read(&path).unwrap().is_none());
        let left = begun(false);
        left.write(&path).unwrap();
        let found = Begun::read(&path).unwrap().unwrap();
        assert_eq!((&found.plan, &found.report), (&left.plan, &left.report));
        found.goes_on_with(&request(INSTALL)).unwrap();
        Begun::forget(&path).unwrap();
        Begun::forget(&path).unwrap();
        assert!(Begun::read(&path).unwrap().is_none());
        std::fs::write(&path, "rubbish").unwrap();
        assert!(Begun::read(&path).is_err());
    }

    #[test]
    fn a_wrong_order_is_refused() {
        let said = |begun: Begun, phases| begun.goes_on_with(&request(phases)).unwrap_err();
        let twice = said(begun(true), INSTALL);
        assert!(twice.message.contains("has run already"), "{twice}");
        let early = said(begun(false), Phases::NONE);
        assert!(early.message.contains("install has not run"), "{early}");
        begun(true).goes_on_with(&request(Phases::NONE)).unwrap();
        assert!(nothing_begun(INSTALL).message.contains("disko has not run"));
        assert!(nothing_begun(Phases::NONE).message.contains("not restarted"));
    }

    #[test]
    fn another_plan_is_not_gone_on_with() {
        let refused = |change: &dyn Fn(&mut PlanRequest), word: &str| {
            let mut request = request(INSTALL);
            change(&mut request);
            let refusal = begun(false).goes_on_with(&request).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::PlanChanged);
            assert!(refusal.message.contains(word), "{refusal}");
        };
        refused(&|r| r.layout = r.layout.replace("100M", "200M"), "another layout");
        refused(&|r| r.closure.as_mut().unwrap().toplevel.push('x'), "another system");
        refused(
            &|r| r.options.host_keys = keystone_protocol::options::HostKeys::Installer,
            "host keys",
        );
        let mut other = request(INSTALL);
        other.options.erase = true;
        begun(false).goes_on_with(&other).unwrap();
        let mut changed = begun(false);
        changed.plan.steps.pop();
        let refusal = changed.goes_on_with(&request(INSTALL)).unwrap_err();
        assert!(refusal.message.contains("was changed"), "{refusal}");
    }
}
