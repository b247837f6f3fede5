//! A binary cache on a web server on loopback, at two ports, to tell who asks.

use crate::run::run;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// nginx. It ends when this is dropped.
#[derive(Debug)]
pub struct Web {
    child: Child,
    dir: TempDir,
    /// Its ports.
    pub ports: [u16; 2],
}

impl Web {
    /// Serves the binary cache that the squashfs `image` has.
    ///
    /// # Errors
    /// A tool is missing, or the server does not start.
    pub fn serve(image: &Path) -> Result<Web> {
        let dir = tempfile::tempdir()?;
        let cache = dir.path().join("cache");
        run(Command::new("unsquashfs").args(["-q", "-n", "-d"]).args([&cache, image]))
            .context("unpacking the binary cache: install squashfs-tools")?;
        let ports = [free_port()?, free_port()?];
        let server = |port| {
            format!(
                "server {{ listen 127.0.0.1:{port}; access_log {at}/{port}.log; }}",
                at = dir.path().display()
            )
        };
        let servers = ports.map(server).concat();
        let at = dir.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("{what}_temp_path {at}/{what};\n"))
            .collect();
        let config = format!(
            "daemon off; master_process off; user root; pid {at}/pid; error_log {at}/error.log;
             events {{}}
             http {{
               {temporary}
               root {at}/cache;
               {servers}
             }}"
        );
        let file = dir.path().join("nginx.conf");
        fs::write(&file, config)?;
        let child = Command::new("nginx")
            .arg("-e")
            .arg(dir.path().join("error.log"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .context("starting nginx: install nginx-light")?;
        let web = Web { child, dir, ports };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0])).is_err() {
            ensure!(began.elapsed() < Duration::from_secs(20), "nginx does not start");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(web)
    }

    /// How many requests for something below `/nar/` came to each port.
    ///
    /// # Errors
    /// The logs can't be read.
    pub fn asked_for_nars(&self) -> Result<[usize; 2]> {
        let count = |port: u16| -> Result<usize> {
            let log = fs::read_to_string(self.dir.path().join(format!("{port}.log")))?;
            Ok(log.lines().filter(|line| line.contains(" /nar/")).count())
        };
        Ok([count(self.ports[0])?, count(self.ports[1])?])
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
