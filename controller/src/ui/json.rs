//! A JSON document in a line for each thing that happens.
//!
//! Every line is an object with `event`. The agent's events keep their fields (`at_ms`, `step`,
//! …; see [`keystone_protocol::event`]); the controller's have those below. Recovery keys,
//! passwords and PINs are not notices, so they can't get here.

use super::screen::Screen;
use crate::kexec::Progress;
use crate::operator::Notice;
use serde_json::{Value, json};
use std::io::Write;

/// Writes JSON lines.
pub struct Json<W: Write + Send> {
    out: W,
}

impl<W: Write + Send> Json<W> {
    /// To `out`.
    pub fn new(out: W) -> Self {
        Json { out }
    }

    /// Writes a document of its own.
    pub fn line(&mut self, value: &Value) {
        let _ = writeln!(self.out, "{value}");
        let _ = self.out.flush();
    }
}

/// A notice as a document.
pub fn value(notice: &Notice<'_>) -> Option<Value> {
    Some(match notice {
        Notice::Remark(text) => json!({"event": "remark", "text": text}),
        Notice::Nix { doing } => json!({"event": "nix", "doing": doing}),
        Notice::NixLog { line, .. } => json!({"event": "nix-log", "line": line}),
        Notice::Connecting { destination } => {
            json!({"event": "connecting", "destination": destination})
        }
        Notice::Connected { host_key } => json!({"event": "connected", "host_key": host_key}),
        Notice::Uploading { agent } => json!({
            "event": "uploading", "bytes": agent.bytes.len(), "blake3": agent.hash.to_hex().as_str(),
        }),
        Notice::AgentStarted { version, path, sent } => {
            json!({"event": "agent-started", "version": version, "path": path, "sent": sent})
        }
        Notice::Inventory(inventory) => json!({"event": "inventory", "inventory": inventory}),
        Notice::Plan(plan) => json!({"event": "plan", "plan": plan}),
        Notice::Event(event) => serde_json::to_value(event).ok()?,
        Notice::AgentLog { line } => json!({"event": "agent-log", "line": line}),
        Notice::Reconnecting { pause, why } => {
            json!({"event": "reconnecting", "pause_ms": pause.as_millis() as u64, "why": why})
        }
        Notice::Connections { count } => json!({"event": "connections", "count": count}),
        Notice::Kexec(progress) => match progress {
            Progress::Reading { image } => json!({"event": "kexec-reading", "image": image}),
            Progress::Sending { done, total } => {
                json!({"event": "kexec-sending", "done": done, "total": total})
            }
            Progress::Said { line } => json!({"event": "kexec-said", "line": line}),
            Progress::Waiting { at, bound, seen } => {
                json!({"event": "kexec-waiting", "at": at, "bound_s": bound.as_secs(), "seen": seen})
            }
            Progress::Booted { at, elapsed } => json!({
                "event": "kexec-booted", "at": at, "elapsed_ms": elapsed.as_millis() as u64,
            }),
        },
        Notice::Stopping => json!({"event": "stopping"}),
        Notice::Rebooting => json!({"event": "rebooting"}),
        Notice::Waiting { at, bound, seen } => {
            json!({"event": "waiting", "at": at, "bound_s": bound.as_secs(), "seen": seen})
        }
        Notice::Verified { destination, elapsed } => json!({
            "event": "verified", "destination": destination, "elapsed_ms": elapsed.as_millis() as u64,
        }),
        Notice::Done(report) => json!({"event": "done", "report": report}),
    })
}

impl<W: Write + Send> Screen for Json<W> {
    fn show(&mut self, notice: &Notice<'_>) {
        if let Some(value) = value(notice) {
            self.line(&value);
        }
    }
}
