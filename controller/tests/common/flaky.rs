//! A web server that breaks off: what no real one does on request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How it fails.
#[derive(Clone, Copy)]
pub struct Faults {
    /// Each answer's body ends after so many bytes, unless that is all.
    pub cut: usize,
    /// Whether it knows ranges.
    pub ranges: bool,
    /// How many times the first answer for a name is 503.
    pub busy: u32,
    /// Whether a body that is cut does not end, but does not go on either.
    pub stalls: bool,
}

pub struct Flaky {
    address: String,
    asked: Arc<Mutex<HashMap<String, u32>>>,
}

impl Flaky {
    /// Serves `root` until the test program ends.
    pub fn serve(root: &Path, faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(HashMap::new()));
        let server = Flaky { address, asked: Arc::clone(&asked) };
        let root = root.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (root, asked) = (root.clone(), Arc::clone(&asked));
                std::thread::spawn(move || answer(stream, root, faults, &asked));
            }
        });
        server
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// How often a name was asked for, of those that contain `part`.
    pub fn asked(&self, part: &str) -> Vec<u32> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(name, _)| name.contains(part)).map(|(_, n)| *n).collect()
    }
}

fn answer(stream: TcpStream, root: PathBuf, faults: Faults, asked: &Mutex<HashMap<String, u32>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut request = String::new();
    let mut from = 0;
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        }
        if request.is_empty() {
            request = line;
        }
    }
    let Some(name) = request.split(' ').nth(1).map(|path| path[1..].to_owned()) else { return };
    let times = {
        let mut asked = asked.lock().unwrap();
        let times = asked.entry(name.clone()).or_insert(0);
        *times += 1;
        *times
    };
    let mut out = stream;
    if times <= faults.busy {
        let _ =
            out.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return;
    }
    let mut bytes = Vec::new();
    match std::fs::File::open(root.join(&name)) {
        Ok(mut file) => file.read_to_end(&mut bytes).unwrap(),
        Err(_) => {
            let head = b"HTTP/1.1 404 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = out.write_all(head);
            return;
        }
    };
    let total = bytes.len();
    let (status, range) = match faults.ranges && from > 0 {
        true => {
            bytes.drain(..from);
            ("206 Partial", format!("content-range: bytes {from}-{}/{total}\r\n", total - 1))
        }
        false => ("200 OK", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\n{range}content-length: {}\r\nconnection: close\r\n\r\n",
        bytes.len()
    );
    let _ = out.write_all(head.as_bytes());
    // Without ranges each try gets further, or none would end.
    let end = if faults.ranges { faults.cut } else { faults.cut * times as usize };
    let _ = out.write_all(&bytes[..bytes.len().min(end)]);
    if faults.stalls && end < bytes.len() {
        // Until the other end goes away.
        let _ = out.read(&mut [0]);
    }
}
