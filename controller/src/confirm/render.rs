//! The plan as text.

use super::action::parameters;
use super::device::unlock;
use super::machine::{identity_details, machine_lines};
use super::tree::{Line, tree};
use crate::ui::format::{bytes, wrap};
use crate::ui::style::Style;
use keystone_protocol::inventory::Inventory;
use keystone_protocol::plan::Plan;

/// Everything that the operator agrees to.
pub fn plan_text(host: &str, inventory: &Inventory, plan: &Plan, style: Style) -> String {
    let mut out = Text { out: String::new(), style };
    out.heading("MACHINE");
    out.line(2, &format!("{host}: {}", machine_lines(inventory).join("; ")));
    if !plan.basis.toplevel.is_empty() {
        out.heading("SYSTEM");
        out.line(2, &plan.basis.toplevel);
    }

    out.heading(match plan.basis.destroys.as_slice() {
        [] => "DISKS",
        destroys if destroys.iter().all(|d| d.contents.is_empty()) => "DISKS TO BE WRITTEN",
        _ => "DISKS TO BE ERASED",
    });
    for (name, id) in &plan.basis.disks {
        let destroyed = plan.basis.destroys.iter().find(|d| d.disk == *name);
        out.line(2, &format!("{}  (the layout's disk {name})", style.bold(&id.name)));
        out.line(6, &format!("{}, {}", bytes(id.size), identity_details(id)));
        match destroyed.map(|d| d.contents.as_slice()) {
            None => out.line(6, "what is on it stays"),
            Some([]) => out.line(6, "it is blank"),
            Some(contents) => {
                out.line(6, &style.red("on it now, and gone afterwards:"));
                contents.iter().for_each(|what| out.line(8, what));
            }
        }
    }

    if !plan.containers.is_empty() {
        out.heading("UNLOCKING AT BOOT");
        for container in &plan.containers {
            out.line(2, &format!("{}: {}", style.bold(&container.name), unlock(&container.unlock)));
            out.line(6, &container.reason);
        }
    }

    let tree = tree(plan, style);
    if !tree.is_empty() {
        out.heading("AFTERWARDS");
        tree.iter().for_each(|line| out.branch(line));
    }

    out.heading("STEPS");
    for (number, step) in (1..).zip(&plan.steps) {
        // Numbers end in one column; lines are indented by what is left of it.
        let indent = if number < 10 { 3 } else { 2 };
        out.line(indent, &format!("{number} {}", step.title));
        parameters(&step.action).iter().for_each(|text| out.line(7, text));
    }

    out.list("NOTES", &plan.notes);
    out.list("WARNINGS", &plan.warnings);
    out.heading("PLAN");
    out.line(2, &plan.hash);
    out.out
}

struct Text {
    out: String,
    style: Style,
}

impl Text {
    fn heading(&mut self, text: &str) {
        let text = self.style.bold(text);
        self.out.push_str(&text);
        self.out.push('\n');
    }

    fn list(&mut self, heading: &str, items: &[String]) {
        if items.is_empty() {
            return;
        }
        self.heading(heading);
        items.iter().for_each(|text| self.line(2, &format!("- {text}")));
    }

    /// A line of the tree, broken as others are.
    fn branch(&mut self, line: &Line) {
        let room = self.style.columns().saturating_sub(line.rest.chars().count() + 2);
        for (index, piece) in wrap(&line.text, room).into_iter().enumerate() {
            let before = if index == 0 { &line.branches } else { &line.rest };
            self.out.push_str(&format!("  {before}{piece}\n"));
        }
    }

    /// Broken at spaces; what follows is indented by two more.
    fn line(&mut self, indent: usize, text: &str) {
        let room = self.style.columns().saturating_sub(indent + 2);
        for (index, piece) in wrap(text, room).into_iter().enumerate() {
            let indent = if index == 0 { indent } else { indent + 2 };
            self.out.push_str(&format!("{:indent$}{piece}\n", ""));
        }
    }
}
