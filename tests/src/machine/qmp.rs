//! QEMU's monitor (QMP): one command a connection.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Runs `command` and returns what it answers.
pub fn execute(socket: &Path, command: &str, arguments: Value) -> Result<Value> {
    let stream = UnixStream::connect(socket).context("connecting to QEMU's monitor")?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    next_line(&mut reader)?;
    for request in [
        json!({ "execute": "qmp_capabilities" }),
        json!({ "execute": command, "arguments": arguments }),
    ] {
        writeln!(writer, "{request}")?;
        let answer = loop {
            let line = next_line(&mut reader)?;
            if line.get("event").is_none() {
                break line;
            }
        };
        if let Some(error) = answer.get("error") {
            bail!("QEMU's monitor refused {request}: {error}");
        }
        if request["execute"] == command {
            return Ok(answer["return"].clone());
        }
    }
    unreachable!("the last request is the command");
}

fn next_line(reader: &mut impl BufRead) -> Result<Value> {
    let mut line = String::new();
    if reader.read_line(&mut line).context("reading from QEMU's monitor")? == 0 {
        bail!("QEMU's monitor closed the connection");
    }
    serde_json::from_str(&line).context("QEMU's monitor said something that is not JSON")
}
