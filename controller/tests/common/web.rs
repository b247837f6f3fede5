//! A directory on a real web server, on loopback.

use super::{run, tool};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// nginx, serving a directory over http and https.
pub struct Nginx {
    child: Child,
    dir: TempDir,
    http: u16,
    https: u16,
}

impl Nginx {
    /// Serves `root`. The certificate is signed by a private CA.
    pub fn serve(root: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let (http, https) = (free_port(), free_port());
        let at = dir.path().display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("{what}_temp_path {at}/{what};\n"))
            .collect();
        let config = format!(
            "daemon off; master_process off; user root; pid {at}/pid; error_log {at}/error.log;
             events {{}}
             http {{
               access_log {at}/access.log;
               {temporary}
               server {{
                 listen 127.0.0.1:{http};
                 listen 127.0.0.1:{https} ssl;
                 ssl_certificate {at}/server.pem; ssl_certificate_key {at}/server.key;
                 location / {{ root {}; }}
                 location /moved/ {{ rewrite ^/moved/(.*)$ /$1 redirect; }}
                 location /busy/ {{ return 503; }}
               }}
             }}",
            root.display()
        );
        let file = dir.path().join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(tool("nginx", "nginx-light"))
            .arg("-e")
            .arg(dir.path().join("error.log"))
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let server = Nginx { child, dir, http, https };
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", http)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "nginx does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    pub fn https(&self) -> String {
        format!("https://127.0.0.1:{}", self.https)
    }

    /// The certificate of its CA.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Lines of its log: what it was asked for so far.
    pub fn requests(&self) -> Vec<String> {
        // An answer may be read before its line is written; what is asked after it is logged after it.
        const LAST: &str = "/the-last-that-counts";
        let log = || std::fs::read_to_string(self.dir.path().join("access.log")).unwrap();
        let asked = || log().matches(LAST).count();
        let (before, began) = (asked(), Instant::now());
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).unwrap();
        let question = format!("GET {LAST} HTTP/1.0\r\n\r\n");
        stream.write_all(question.as_bytes()).unwrap();
        while asked() == before {
            assert!(began.elapsed() < Duration::from_secs(30), "nginx writes no log");
            std::thread::sleep(Duration::from_millis(10));
        }
        log().lines().filter(|line| !line.contains(LAST)).map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `ca.pem`, and `server.pem` with `server.key` for 127.0.0.1.
fn certificates(dir: &Path) {
    let openssl = |args: &[&str]| {
        run(Command::new(tool("openssl", "openssl")).args(args).current_dir(dir));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"];
    let ca_name = ["-subj", "/CN=test CA", "-addext", "keyUsage=keyCertSign"];
    openssl(&[&ca[..], &key, &ca_name].concat());
    let request = ["req", "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server"];
    openssl(&[&request[..], &key].concat());
    std::fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    let sign = ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key"];
    let out = ["-CAcreateserial", "-out", "server.pem", "-days", "2", "-extfile", "san"];
    openssl(&[&sign[..], &out].concat());
}
