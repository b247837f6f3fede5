//! What carries a connection: TCP, a channel of another connection, a program.

use super::Destination;
use super::config::AddressFamily;
use super::connect::{ConnectOptions, Session, Via};
use super::error::SshError;
use super::line::Line;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens carriers to one destination.
pub(super) enum Dialer {
    Tcp { host: String, port: u16, family: AddressFamily },
    Jump { session: Session, host: String, port: u16 },
    Command(String),
}

/// What an SSH connection runs over.
pub(super) struct Carrier {
    pub stream: Box<dyn Stream>,
    /// That of the whole way, if it is one TCP connection.
    pub line: Option<Line>,
    pub complaint: Complaint,
}

/// What a `ProxyCommand` says on its standard error.
#[derive(Default)]
pub(super) struct Complaint(Option<Heard>);

struct Heard {
    command: String,
    said: Arc<Mutex<Vec<u8>>>,
    /// Ends when the program's error output does.
    ended: JoinHandle<()>,
    _child: Arc<Child>,
}

/// Bound of waiting for a failed program's last words.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Kept of a program's error output, in bytes.
const KEPT: usize = 2048;

impl Complaint {
    /// The error, with what the program said about it.
    pub(super) async fn about(self, error: SshError) -> SshError {
        let Some(Heard { command, said, ended, _child }) = self.0 else { return error };
        // What it says comes on another pipe than that it ended.
        let _ = timeout(LAST_WORDS, ended).await;
        let said = said.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
        SshError::ProxyCommand { command, said, source: Box::new(error) }
    }
}

impl Dialer {
    /// Makes ready: connects to the machines on the way.
    pub(super) async fn prepare(
        destination: &Destination,
        options: &ConnectOptions,
    ) -> Result<Self, SshError> {
        let (host, port) = (options.host(destination).to_owned(), destination.port);
        Ok(match &options.via {
            Via::Direct => Dialer::Tcp { host, port, family: options.family },
            Via::Command(command) => Dialer::Command(command.clone()),
            Via::Jump(hop) => {
                let session = Box::pin(Session::connect(&hop.destination, &hop.connect)).await?;
                Dialer::Jump { session, host, port }
            }
        })
    }

    /// The connection that carriers are channels of.
    pub(super) fn into_carrier(self) -> Option<Session> {
        match self {
            Dialer::Jump { session, .. } => Some(session),
            _ => None,
        }
    }

    /// Opens one.
    pub(super) async fn open(&self, bound: Duration) -> Result<Carrier, SshError> {
        match self {
            Dialer::Tcp { host, port, family } => {
                let stream = tcp(host, *port, *family, bound).await?;
                let line = Line::of(&stream);
                Ok(Carrier { stream: Box::new(stream), line, complaint: Complaint::default() })
            }
            Dialer::Jump { session, host, port } => {
                // RFC 4254, section 7.2: the originator's address; there is none.
                let opening = session.handle.channel_open_direct_tcpip(
                    host.clone(),
                    u32::from(*port),
                    "127.0.0.1",
                    0,
                );
                let hop = session.destination().to_string();
                let channel = timeout(bound, opening)
                    .await
                    .map_err(|_| SshError::TimedOut {
                        what: format!("reaching {host} port {port} from {hop}"),
                        bound,
                    })?
                    .map_err(|source| SshError::Jump {
                        hop,
                        host: host.clone(),
                        port: *port,
                        source: Box::new(source),
                    })?;
                let stream = Box::new(channel.into_stream());
                Ok(Carrier { stream, line: None, complaint: Complaint::default() })
            }
            Dialer::Command(command) => spawn(command),
        }
    }
}

/// A TCP connection to the first address that takes one.
async fn tcp(
    host: &str,
    port: u16,
    family: AddressFamily,
    bound: Duration,
) -> Result<TcpStream, SshError> {
    let resolve = |source| SshError::Resolve { host: host.to_owned(), source };
    let wanted = |address: &SocketAddr| match family {
        AddressFamily::Any => true,
        AddressFamily::Inet => address.is_ipv4(),
        AddressFamily::Inet6 => address.is_ipv6(),
    };
    let addresses: Vec<_> = timeout(bound, tokio::net::lookup_host((host, port)))
        .await
        .map_err(|_| SshError::TimedOut { what: format!("looking up {host}"), bound })?
        .map_err(resolve)?
        .filter(wanted)
        .collect();
    let none = match family {
        AddressFamily::Any => "the name has no address",
        _ => "the name has no address of the family that the SSH configuration asks for",
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, none);
    for address in addresses {
        match timeout(bound, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                if let Err(e) = stream.set_nodelay(true) {
                    tracing::debug!("TCP_NODELAY: {e}");
                }
                return Ok(stream);
            }
            Ok(Err(e)) => last = e,
            Err(_) => {
                last = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{address} does not answer within {} s", bound.as_secs()),
                );
            }
        }
    }
    Err(SshError::Unreachable { host: host.to_owned(), port, source: last })
}

/// Starts a `ProxyCommand` by the user's shell, as OpenSSH does. Ctrl-C is not for it: this
/// program stops in order when it is pressed, and needs the connection for that.
fn spawn(command: &str) -> Result<Carrier, SshError> {
    let shell = std::env::var("SHELL").ok().filter(|shell| !shell.is_empty());
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg("trap '' INT; exec \"$0\" -c \"$1\"")
        .arg(shell.unwrap_or_else(|| "/bin/sh".into()))
        .arg(format!("exec {command}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| SshError::ProxyStart { command: command.to_owned(), source })?;
    let (Some(stdin), Some(stdout), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        unreachable!("all three are pipes");
    };
    let child = Arc::new(child);
    let said = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&said);
    let ended = tokio::spawn(async move {
        let mut buffer = [0; KEPT];
        while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
            tracing::debug!("ProxyCommand: {}", String::from_utf8_lossy(&buffer[..n]).trim_end());
            let mut said = into.lock().unwrap_or_else(|e| e.into_inner());
            said.extend_from_slice(&buffer[..n]);
            let over = said.len().saturating_sub(KEPT);
            said.drain(..over);
        }
    });
    Ok(Carrier {
        line: None,
        stream: Box::new(Program { stdin, stdout, _child: Arc::clone(&child) }),
        complaint: Complaint(Some(Heard {
            command: command.to_owned(),
            said,
            ended,
            _child: child,
        })),
    })
}

/// A program's standard input and output; it is ended when this is dropped, unless its last words
/// are waited for.
struct Program {
    stdin: ChildStdin,
    stdout: ChildStdout,
    _child: Arc<Child>,
}

impl AsyncRead for Program {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Program {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}
