//! Root, for who logs in as somebody else: `sudo` or `doas`.
//!
//! The password goes over the channel, to `sudo -S` once it has shown a prompt that nobody else
//! can know, or to the terminal that `doas` insists on. It is never an argument nor in the
//! environment.
//!
//! On a terminal, output and error output are one and not what was written. So the program that
//! `doas` starts there is connected to a second channel by named pipes.

use super::Session;
use super::error::SshError;
use super::exec::Running;
use super::login::Asked;
use rand::Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// Bound of finding out what there is.
const LOOK: Duration = Duration::from_secs(60);
/// Bound of becoming root: PAM waits some seconds after a wrong password.
const BECOME: Duration = Duration::from_secs(60);
/// What a tool may say before the program starts, in bytes.
const SAID: usize = 16 << 10;

/// How programs run as root.
#[derive(Debug)]
pub(super) struct Elevation {
    tool: Tool,
    /// Absolute.
    path: String,
    /// User id of who logged in.
    uid: u32,
    password: Password,
}

struct Password(Option<Zeroizing<String>>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "asked" } else { "not asked" })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Sudo,
    Doas,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Sudo => "sudo",
            Tool::Doas => "doas",
        }
    }
}

/// Why a program was not started as root.
enum Denied {
    /// The password is not the right one, or there is none.
    Password,
    /// In the tool's words.
    Said(String),
    /// The connection.
    Ssh(SshError),
}

impl From<SshError> for Denied {
    fn from(error: SshError) -> Self {
        Denied::Ssh(error)
    }
}

impl Session {
    /// The same connection, whose programs run as root: itself where root logged in, by that name
    /// or another, else by `sudo` or `doas`, those that ask for no password first.
    ///
    /// # Errors
    /// [`SshError::NotRoot`] says why not; or the connection broke.
    pub async fn as_root(&self) -> Result<Session, SshError> {
        // Who has that name has all rights on every Linux, and the agent looks at its user id itself.
        if self.destination().user == "root" || self.elevation.is_some() {
            return Ok(self.clone());
        }
        let out = self.script("asking who this is", FIND, LOOK).await?;
        let text = String::from_utf8_lossy(&out).into_owned();
        let mut lines = text.lines();
        let uid = lines.next().and_then(|line| line.trim().parse::<u32>().ok());
        let uid = uid.ok_or_else(|| self.not_root("its id -u says nothing".into()))?;
        if uid == 0 {
            return Ok(self.clone());
        }
        let found: Vec<(bool, Tool, &str)> = lines
            .filter_map(|line| {
                let (how, rest) = line.split_once(' ')?;
                let (tool, path) = rest.split_once(' ')?;
                let tool = if tool == "sudo" { Tool::Sudo } else { Tool::Doas };
                plain(path).then_some((how == "free", tool, path))
            })
            .collect();
        let best = found.iter().find(|(free, ..)| *free).or(found.first());
        let Some((free, tool, path)) = best else {
            return Err(self.not_root("it has neither sudo nor doas; log in as root@…".into()));
        };
        let elevation = |password| Elevation {
            tool: *tool,
            path: (*path).to_owned(),
            uid,
            password: Password(password),
        };
        if *free {
            return Ok(self.elevated(elevation(None)));
        }
        for password in self.login.root_passwords() {
            if let Some(session) = self.try_password(elevation(Some(password))).await? {
                return Ok(session);
            }
        }
        for _ in 0..self.login.attempts {
            let at = self.destination().to_string();
            let question = Asked::Elevation { at, tool: tool.name() };
            let Some(password) = self.login.ask(question).await else { break };
            if let Some(session) = self.try_password(elevation(Some(password))).await? {
                return Ok(session);
            }
        }
        Err(self.not_root(format!(
            "{} asks for a password and no right one was given: type it at a terminal, or give \
             it with --sudo-password-file",
            tool.name()
        )))
    }

    /// `None` if the password is wrong.
    async fn try_password(&self, elevation: Elevation) -> Result<Option<Session>, SshError> {
        let tool = elevation.tool;
        match elevation.start(self, "true").await {
            Ok(running) => {
                // Its end is its end; what counts is that it started.
                drop(running);
                if let Some(password) = &elevation.password.0 {
                    self.login.remember_for_root(password.clone());
                }
                Ok(Some(self.elevated(elevation)))
            }
            Err(Denied::Password) => Ok(None),
            Err(Denied::Said(said)) => Err(self.not_root(format!("{} says: {said}", tool.name()))),
            Err(Denied::Ssh(error)) => Err(error),
        }
    }

    fn elevated(&self, elevation: Elevation) -> Session {
        Session { elevation: Some(Arc::new(elevation)), ..self.clone() }
    }

    fn not_root(&self, why: String) -> SshError {
        SshError::NotRoot {
            user: self.destination().user.clone(),
            host: self.destination().host.clone(),
            why,
        }
    }

    /// Starts `command` as root, where this session's programs are to run so.
    pub(super) async fn start_elevated(
        &self,
        elevation: &Elevation,
        command: &str,
    ) -> Result<Running, SshError> {
        elevation.start(self, command).await.map_err(|denied| match denied {
            Denied::Ssh(error) => error,
            Denied::Password => {
                self.not_root(format!("{} does not take the password", elevation.tool.name()))
            }
            Denied::Said(said) => self.not_root(format!("{} says: {said}", elevation.tool.name())),
        })
    }
}

/// `id -u`, and of the tools that are there whether they ask for a password.
const FIND: &str = r#"u=$(id -u)
echo "$u"
[ "$u" != 0 ] || exit 0
for t in sudo doas; do
  p=$(command -v $t) || continue
  if $p -n true </dev/null >/dev/null 2>&1; then echo "free $t $p"; else echo "asks $t $p"; fi
done
exit 0"#;

/// Whether a path can stand in a command line of any shell.
fn plain(path: &str) -> bool {
    path.starts_with('/')
        && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b))
}

impl Elevation {
    /// `command` as root, for a terminal at which the tool asks by itself if it has to.
    pub(super) fn at_terminal(
        &self,
        session: &Session,
        command: &str,
        terminal: bool,
    ) -> Result<String, SshError> {
        match (&self.password.0, terminal) {
            (None, _) => Ok(format!("{} -n -- {command}", self.path)),
            (Some(_), true) => Ok(format!("{} -- {command}", self.path)),
            (Some(_), false) => Err(session.not_root(format!(
                "{} asks for a password, and this is no terminal",
                self.tool.name()
            ))),
        }
    }

    async fn start(&self, session: &Session, command: &str) -> Result<Running, Denied> {
        if self.password.0.as_ref().is_some_and(|p| p.contains(['\n', '\r', '\0'])) {
            return Err(Denied::Said("a password of several lines can't be typed".into()));
        }
        let nonce: [u8; 8] = rand::rng().random();
        let nonce = hex::encode(nonce);
        let starting = async {
            match (self.tool, &self.password.0) {
                (Tool::Doas, Some(password)) => {
                    self.on_terminal(session, command, &nonce, password).await
                }
                _ => self.on_channel(session, command, &nonce).await,
            }
        };
        timeout(BECOME, starting).await.map_err(|_| {
            let what = format!("becoming root by {}", self.tool.name());
            Denied::Ssh(SshError::TimedOut { what, bound: BECOME })
        })?
    }

    /// `sudo -S`, which asks on standard error and reads one line of standard input; or what
    /// asks for nothing.
    async fn on_channel(
        &self,
        session: &Session,
        command: &str,
        nonce: &str,
    ) -> Result<Running, Denied> {
        let (prompt, ready) = (format!("keystone-asks-{nonce}:"), format!("keystone-root-{nonce}"));
        let flags = match self.tool {
            Tool::Sudo => format!("-S -p {prompt}"),
            Tool::Doas => "-n".into(),
        };
        // Words after `sh` are the login shell's to read, as they are without all this.
        let line = format!(
            "{} {flags} -- /bin/sh -c 'echo {ready} >&2; exec \"$@\"' sh {command}",
            self.path
        );
        let mut running = session.start_plain(&line, false).await?;
        let prompt = prompt.into_bytes();
        let asks = |said: &[u8]| said.ends_with(&prompt);
        let mut stderr = running.stderr;
        self.wait(&mut stderr, &running.stdin, asks, &ready).await?;
        running.stderr = stderr;
        Ok(running)
    }

    /// `doas`, which asks at the terminal only.
    async fn on_terminal(
        &self,
        session: &Session,
        command: &str,
        nonce: &str,
        _password: &str,
    ) -> Result<Running, Denied> {
        let ready = format!("keystone-root-{nonce}");
        let open = format!("keystone-open-{nonce}");
        let dir = format!("/run/keystone-tty.{nonce}");
        let uid = self.uid;
        // The pipes are the user's, below a directory that only root changes. Opening them waits
        // for the other end; a hang-up ends that, and is left to the end of input later. What is
        // open is told on the terminal, and the directory is gone by then.
        let line = format!(
            "{} -- /bin/sh -c 'umask 077; trap \"rm -rf {dir}\" 0; trap \"exit 1\" HUP; \
             mkdir {dir} && chmod 711 {dir} && mkfifo {dir}/in {dir}/out {dir}/err && \
             chown {uid} {dir}/in {dir}/out {dir}/err && echo {ready} || exit 120; \
             exec 4>&1 <{dir}/in >{dir}/out 2>{dir}/err; rm -rf {dir}; trap - 0; trap \"\" HUP; \
             echo {open} >&4; exec 4>&-; exec \"$@\"' sh {command}",
            self.path
        );
        let mut terminal = session.start_plain(&line, true).await?;
        // Its prompt: `doas (user@host) password: `, or a PAM module's.
        let asks = |said: &[u8]| {
            let said = String::from_utf8_lossy(said).to_lowercase();
            said.ends_with("password: ")
        };
        self.wait(&mut terminal.stdout, &terminal.stdin, asks, &ready).await?;
        // Where the other end never opens them, the directory is still there after a while.
        let bridge = format!(
            "/bin/sh -c 'exec 3<&0; cat <&3 >{dir}/in & i=$!; cat <{dir}/out & o=$!; \
             cat <{dir}/err >&2 & e=$!; exec 3<&-; \
             (sleep {patience}; [ -e {dir} ] && kill $i $o $e) </dev/null >/dev/null 2>&1 & w=$!; \
             wait $o; wait $e; kill $i $w 2>/dev/null'",
            patience = BECOME.as_secs()
        );
        let piped = session.start_plain(&bridge, false).await?;
        self.wait(&mut terminal.stdout, &terminal.stdin, |_| false, &open).await?;
        let Running { stdin: keyboard, mut stdout, stderr, exit, .. } = terminal;
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
            drop((keyboard, stderr));
        });
        Ok(Running { exit, ..piped })
    }

    /// Reads what the tool says until the program is about to start, and gives the password when
    /// it is asked for. Byte by byte: what comes after is the program's.
    async fn wait(
        &self,
        from: &mut (impl AsyncRead + Unpin),
        to: &super::exec::Stdin,
        asks: impl Fn(&[u8]) -> bool,
        ready: &str,
    ) -> Result<(), Denied> {
        let mut said = Vec::new();
        let mut given = false;
        let (unix, terminal) = (format!("{ready}\n"), format!("{ready}\r\n"));
        loop {
            let byte = match from.read_u8().await {
                Ok(byte) => byte,
                Err(_) => {
                    let text = tidy(&said);
                    let failed = given && text.to_lowercase().contains("authentication fail");
                    return Err(if failed { Denied::Password } else { Denied::Said(text) });
                }
            };
            said.push(byte);
            if said.ends_with(unix.as_bytes()) || said.ends_with(terminal.as_bytes()) {
                return Ok(());
            }
            if said.len() > SAID {
                return Err(Denied::Said(tidy(&said)));
            }
            if asks(&said) {
                let Some(password) = self.password.0.as_ref().filter(|_| !given) else {
                    let _ = to.eof().await;
                    return Err(Denied::Password);
                };
                given = true;
                let mut line = Zeroizing::new(Vec::with_capacity(password.len() + 1));
                line.extend_from_slice(password.as_bytes());
                line.push(b'\n');
                let broke = |_| Denied::Said("it went away".into());
                to.send(line.to_vec()).await.map_err(broke)?;
            }
        }
    }
}

/// The last words, on one line.
fn tidy(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    // The prompt is followed by no line break.
    let without_prompt = |line: &'_ str| match line.strip_prefix("keystone-asks-") {
        Some(rest) => rest.split_once(':').map_or("", |(_, after)| after).to_owned(),
        None => line.to_owned(),
    };
    let lines: Vec<String> = text
        .lines()
        .map(|line| without_prompt(line.trim()))
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines.len().saturating_sub(3);
    match lines[last..].join("; ") {
        words if words.is_empty() => "nothing".into(),
        words => words.chars().filter(|c| !c.is_control()).collect(),
    }
}
