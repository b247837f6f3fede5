//! From the steps that make a layout to those that open what was made.

use super::words::check;
use serde_json::{Value, json};

/// Opens and mounts what `steps` made, finds the file `kept`, and closes it as they do.
pub(super) fn steps(steps: &[Value], kept: &str) -> Vec<Value> {
    let mut again: Vec<Value> = Vec::new();
    for step in steps {
        again.extend(opened(step, steps));
    }
    let last_mount = again.iter().rposition(|step| step["do"] == "mount");
    let at = last_mount.map_or(again.len(), |at| at + 1);
    again.insert(at, check(&format!("test -e {kept}")));
    again
}

fn opened(step: &Value, all: &[Value]) -> Vec<Value> {
    let with = |word: &str| {
        let mut step = step.clone();
        step["do"] = json!(word);
        step
    };
    let unlock = |dataset: &Value, key: &Value| {
        (!key.is_null()).then(|| json!({"do": "unlock-dataset", "dataset": dataset, "key": key}))
    };
    match step["do"].as_str().unwrap_or_default() {
        "create-array" => vec![with("assemble-array")],
        "create-volume-group" => vec![with("activate-group")],
        "format-luks" => vec![json!({
            "do": "open-luks", "device": step["device"], "name": step["name"],
            "key_file": key_file(&step["name"], all), "make": false,
        })],
        "create-pool" => {
            let classes = ["vdevs", "log", "special", "dedup"];
            let vdevs =
                classes.iter().flat_map(|class| step[class].as_array().into_iter().flatten());
            let members: Vec<Value> = vdevs.flat_map(members).collect();
            let auxiliary = ["cache", "spare"];
            let auxiliary =
                auxiliary.iter().flat_map(|class| step[class].as_array().into_iter().flatten());
            let auxiliary: Vec<&Value> = auxiliary.collect();
            let import = json!({"do": "import-pool", "name": step["name"], "guid": null,
                "any_host": false, "members": members, "auxiliary": auxiliary});
            [import].into_iter().chain(unlock(&step["name"], &step["root_key"])).collect()
        }
        // A key that is in a container is loaded from there; others are asked for again.
        "create-dataset" if step["key"]["from"] == "made" => vec![json!({
            "do": "load-key", "dataset": step["dataset"], "device": step["key"]["device"],
            "file": step["key"]["file"], "bytes": 32,
        })],
        "create-dataset" | "create-volume" => {
            unlock(&step["dataset"], &step["key"]).into_iter().collect()
        }
        "mount" | "swapon" | "swapoff" | "unmount" | "close-luks" | "deactivate-group"
        | "stop-array" | "export-pool" | "prove-seal" => vec![step.clone()],
        _ => Vec::new(),
    }
}

/// The key file that a container was enrolled with, if it was one.
fn key_file(name: &Value, all: &[Value]) -> Value {
    let enrolled = all.iter().find(|step| step["do"] == "enroll" && step["name"] == *name);
    match enrolled.map(|step| step["unlock"].clone()) {
        Some(mut unlock) if unlock["by"] == "key-file" => {
            unlock.as_object_mut().map(|key| key.remove("by"));
            unlock
        }
        _ => Value::Null,
    }
}

fn members(vdev: &Value) -> Vec<Value> {
    match &vdev["members"] {
        Value::Array(members) => members.clone(),
        _ => vec![vdev["member"].clone()],
    }
}
