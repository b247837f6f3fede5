//! Logs in: keys, the machine's questions, passwords, in the order and within the limits that
//! OpenSSH has.

use super::Destination;
use super::connect::Client;
use super::error::SshError;
use super::identity::{Agent, Identities, Origin};
use super::login::{Asked, Login, Method, PasswordFrom};
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse as Challenge};
use russh::keys::agent::AgentIdentity;
use russh::keys::ssh_key::SigningKey;
use russh::keys::ssh_key::encoding::Encode;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{AgentAuthError, MethodKind, MethodSet, Signer};
use zeroize::Zeroizing;

/// Rounds of methods, where a machine asks for more than one.
const ROUNDS: usize = 8;
/// Questions of one keyboard-interactive conversation.
const CHALLENGES: usize = 16;

/// Logs in.
///
/// # Errors
/// [`SshError::NotAuthenticated`] with what was tried, or what kept it from being tried.
pub(super) async fn authenticate(
    handle: &mut Handle<Client>,
    destination: &Destination,
    identities: &Identities,
    login: &Login,
) -> Result<(), SshError> {
    let mut attempt = Attempt {
        handle,
        destination,
        identities,
        login,
        offers: Vec::new(),
        tried: Vec::new(),
        left_out: Vec::new(),
        given: 0,
    };
    // Asks what the machine offers; a machine that lets in without any key does so here.
    let first = attempt.handle.authenticate_none(&destination.user).await;
    let first = first.map_err(|e| attempt.broken(e))?;
    if attempt.note(&first, None) != Outcome::No {
        return Ok(());
    }
    let mut methods = login.methods.clone();
    for _ in 0..ROUNDS {
        let offered = |method: &Method| attempt.offers.contains(method);
        let Some(at) = methods.iter().position(offered) else { break };
        let method = methods.remove(at);
        let outcome = match method {
            Method::PublicKey => attempt.keys().await?,
            Method::KeyboardInteractive => attempt.challenges().await?,
            Method::Password => attempt.passwords().await?,
        };
        match outcome {
            Outcome::In => return Ok(()),
            // One of several that the machine asks for: the others, from the first on.
            Outcome::Partly => {
                methods = login.methods.iter().copied().filter(|m| *m != method).collect();
            }
            Outcome::No if attempt.handle.is_closed() => break,
            Outcome::No => {}
        }
    }
    Err(attempt.failed())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    In,
    Partly,
    No,
}

struct Attempt<'a> {
    handle: &'a mut Handle<Client>,
    destination: &'a Destination,
    identities: &'a Identities,
    login: &'a Login,
    offers: Vec<Method>,
    tried: Vec<String>,
    left_out: Vec<String>,
    /// Passwords that were given beforehand are tried once by each method.
    given: usize,
}

/// A key to try.
struct Candidate {
    name: String,
    key: Key,
}

enum Key {
    File(usize),
    FileCertificate(Box<Certificate>, usize),
    Agent(AgentIdentity),
    /// The certificate is a file, the key the agent's.
    AgentCertificate(Box<Certificate>),
}

impl Attempt<'_> {
    fn broken(&self, source: russh::Error) -> SshError {
        SshError::Broken {
            host: self.destination.host.clone(),
            doing: format!("logging in as {}", self.destination.user),
            source: Box::new(source),
        }
    }

    /// Takes an answer of the machine; `tried` is what it answers to.
    fn note(&mut self, result: &AuthResult, tried: Option<String>) -> Outcome {
        match result {
            AuthResult::Success => Outcome::In,
            AuthResult::Failure { remaining_methods, partial_success } => {
                self.refused(remaining_methods, *partial_success, tried)
            }
        }
    }

    fn refused(&mut self, offers: &MethodSet, partly: bool, tried: Option<String>) -> Outcome {
        // A connection that has ended offers nothing; what it offered before is worth telling.
        if !self.handle.is_closed() || self.offers.is_empty() {
            self.offers = offers.iter().filter_map(method_of).collect();
        }
        let name = tried.map(|name| match partly {
            true => format!("{name} (accepted, but more is asked)"),
            false => name,
        });
        self.tried.extend(name);
        match partly {
            true => Outcome::Partly,
            false => Outcome::No,
        }
    }

    async fn keys(&mut self) -> Result<Outcome, SshError> {
        let (mut agent, held) = match self.identities.agent().await {
            Some((mut agent, held)) => {
                if let Some(binding) = self.handle.agent_session_binding()
                    && let Err(e) = agent.bind_session(binding, false).await
                {
                    tracing::debug!("the ssh-agent does not bind sessions: {e}");
                }
                (Some(agent), held)
            }
            None => (None, Vec::new()),
        };
        for candidate in candidates(self.identities, held) {
            if self.handle.is_closed() {
                break;
            }
            match self.key(candidate, agent.as_mut()).await? {
                Outcome::No => {}
                other => return Ok(other),
            }
        }
        Ok(Outcome::No)
    }

    async fn key(
        &mut self,
        candidate: Candidate,
        agent: Option<&mut Agent>,
    ) -> Result<Outcome, SshError> {
        let Candidate { name, key } = candidate;
        let user = self.destination.user.clone();
        let signed = match (key, agent) {
            (Key::File(index), _) => return self.file(index, name, None).await,
            (Key::FileCertificate(certificate, index), _) => {
                return self.file(index, name, Some(*certificate)).await;
            }
            (Key::Agent(AgentIdentity::PublicKey { key, .. }), Some(agent)) => {
                let hash = self.rsa_hash(&key.algorithm()).await?;
                self.handle.authenticate_publickey_with(user, key, hash, agent).await
            }
            (Key::Agent(AgentIdentity::Certificate { certificate, .. }), Some(agent)) => {
                let hash = self.rsa_hash(&certificate.algorithm()).await?;
                self.handle.authenticate_certificate_with(user, certificate, hash, agent).await
            }
            (Key::AgentCertificate(certificate), Some(agent)) => {
                let hash = self.rsa_hash(&certificate.algorithm()).await?;
                let mut signer = PlainKeyOf(agent);
                self.handle
                    .authenticate_certificate_with(user, *certificate, hash, &mut signer)
                    .await
            }
            (Key::Agent(_) | Key::AgentCertificate(_), None) => return Ok(Outcome::No),
        };
        Ok(match signed {
            Ok(result) => self.note(&result, Some(name)),
            // An agent that declines one key may sign with the next.
            Err(e) => {
                self.tried.push(format!("{name}: {e}"));
                Outcome::No
            }
        })
    }

    /// A key of a file. Its passphrase is asked for only if the machine would take the key.
    async fn file(
        &mut self,
        index: usize,
        name: String,
        certificate: Option<Certificate>,
    ) -> Result<Outcome, SshError> {
        let user = self.destination.user.clone();
        if let Some(key) = self.identities.public(index)
            && certificate.is_none()
            && !self.identities.is_unlocked(index)
        {
            let hash = self.rsa_hash(&key.algorithm()).await?;
            let asked = self.handle.authenticate_publickey_with(&user, key, hash, &mut Probe).await;
            if let Ok(result) = asked {
                return Ok(self.note(&result, Some(name)));
            }
        }
        let key = match self.identities.load(index).await {
            Ok(Some(key)) => key,
            Ok(None) => {
                self.left_out.push(format!("{name} (it needs a passphrase)"));
                return Ok(Outcome::No);
            }
            Err(error) if self.identities.origin(index) == Origin::Named => return Err(error),
            Err(error) => {
                self.left_out.push(crate::chain(&error));
                return Ok(Outcome::No);
            }
        };
        let result = match certificate {
            Some(certificate) => {
                // What [`ByFile`] signs with; servers since 2018 take it.
                let hash = match key.algorithm() {
                    Algorithm::Rsa { .. } => Some(HashAlg::Sha512),
                    _ => None,
                };
                let mut signer = ByFile(&key);
                match self
                    .handle
                    .authenticate_certificate_with(user, certificate, hash, &mut signer)
                    .await
                {
                    Ok(result) => Ok(result),
                    Err(Unsigned::Gone) => Err(russh::Error::SendError),
                    Err(Unsigned::Key(e)) => {
                        self.left_out.push(format!("{name} ({e})"));
                        return Ok(Outcome::No);
                    }
                }
            }
            None => {
                let hash = self.rsa_hash(&key.algorithm()).await?;
                let key = PrivateKeyWithHashAlg::new(key, hash);
                self.handle.authenticate_publickey(user, key).await
            }
        };
        let result = result.map_err(|e| self.broken(e))?;
        Ok(self.note(&result, Some(name)))
    }

    async fn rsa_hash(&self, algorithm: &Algorithm) -> Result<Option<HashAlg>, SshError> {
        match algorithm {
            Algorithm::Rsa { .. } => {
                let best = self.handle.best_supported_rsa_hash().await;
                Ok(best.map_err(|e| self.broken(e))?.flatten())
            }
            _ => Ok(None),
        }
    }

    /// Whether any password is there, or anybody to ask; noted if not.
    fn can_answer(&mut self, method: Method) -> bool {
        let can = self.login.has_password();
        if !can {
            self.left_out
                .push(format!("{} (nobody can be asked: --ssh-password-file)", method.name()));
        }
        can
    }

    async fn passwords(&mut self) -> Result<Outcome, SshError> {
        if !self.can_answer(Method::Password) {
            return Ok(Outcome::No);
        }
        for (password, from) in self.login.passwords() {
            match self.password(password, &from).await? {
                Outcome::No => {}
                other => return Ok(other),
            }
        }
        for number in 0..self.login.attempts {
            if self.handle.is_closed() || !self.offers.contains(&Method::Password) {
                break;
            }
            let again = number > 0 || self.given > 0;
            let question = Asked::Password { at: self.destination.to_string(), again };
            let Some(password) = self.login.ask(question).await else { break };
            match self.password(password, &PasswordFrom::Typed).await? {
                Outcome::No => {}
                other => return Ok(other),
            }
        }
        Ok(Outcome::No)
    }

    async fn password(
        &mut self,
        password: Zeroizing<String>,
        from: &PasswordFrom,
    ) -> Result<Outcome, SshError> {
        if self.handle.is_closed() {
            return Ok(Outcome::No);
        }
        let user = self.destination.user.clone();
        let result = self.handle.authenticate_password(user, password.as_str()).await;
        let result = result.map_err(|e| self.broken(e))?;
        let outcome = self.note(&result, Some(said(Method::Password, from)));
        if outcome != Outcome::No {
            self.login.remember(password);
        } else {
            self.given += 1;
        }
        Ok(outcome)
    }

    async fn challenges(&mut self) -> Result<Outcome, SshError> {
        if !self.can_answer(Method::KeyboardInteractive) {
            return Ok(Outcome::No);
        }
        let mut ready = self.login.passwords();
        for _ in 0..self.login.attempts.saturating_add(ready.len() as u32) {
            if self.handle.is_closed() || !self.offers.contains(&Method::KeyboardInteractive) {
                break;
            }
            let next = (!ready.is_empty()).then(|| ready.remove(0));
            match self.conversation(next).await? {
                Some(Outcome::No) => {}
                Some(other) => return Ok(other),
                // Nobody answers, or nothing was asked.
                None => break,
            }
        }
        Ok(Outcome::No)
    }

    /// One keyboard-interactive conversation; `None` if there is no use in another. A password
    /// that is ready answers the first hidden question.
    async fn conversation(
        &mut self,
        ready: Option<(Zeroizing<String>, PasswordFrom)>,
    ) -> Result<Option<Outcome>, SshError> {
        let user = self.destination.user.clone();
        let from = ready.as_ref().map_or(PasswordFrom::Typed, |(_, from)| from.clone());
        let mut ready = ready.map(|(password, _)| password);
        let (mut asked, mut answered, mut secret) = (false, true, None);
        let start = self.handle.authenticate_keyboard_interactive_start(user, None);
        let mut answer = start.await.map_err(|e| self.broken(e))?;
        for _ in 0..CHALLENGES {
            let (name, instructions, prompts) = match answer {
                Challenge::Success => {
                    if let Some(secret) = secret {
                        self.login.remember(secret);
                    }
                    return Ok(Some(Outcome::In));
                }
                Challenge::Failure { remaining_methods, partial_success } => {
                    let tried = asked.then(|| said(Method::KeyboardInteractive, &from));
                    self.given += usize::from(asked);
                    let outcome = self.refused(&remaining_methods, partial_success, tried);
                    let again = asked && answered || outcome == Outcome::Partly;
                    return Ok(again.then_some(outcome));
                }
                Challenge::InfoRequest { name, instructions, prompts } => {
                    (name, instructions, prompts)
                }
            };
            let introduction = format!("{name}\n{instructions}").trim().to_owned();
            let mut responses = Vec::with_capacity(prompts.len());
            for prompt in prompts {
                asked = true;
                let given = if prompt.echo { None } else { ready.take() };
                let response = match given {
                    Some(password) => Some(password),
                    None => {
                        let at = self.destination.to_string();
                        let introduction = introduction.clone();
                        let question = Asked::Challenge {
                            at,
                            introduction,
                            prompt: prompt.prompt,
                            echo: prompt.echo,
                        };
                        self.login.ask(question).await
                    }
                };
                answered &= response.is_some();
                let response = response.unwrap_or_default();
                if !prompt.echo && secret.is_none() {
                    secret = Some(response.clone());
                }
                responses.push(response.to_string());
            }
            let respond = self.handle.authenticate_keyboard_interactive_respond(responses);
            answer = respond.await.map_err(|e| self.broken(e))?;
        }
        self.tried.push("keyboard-interactive (it asks without end)".into());
        Ok(None)
    }

    fn failed(&mut self) -> SshError {
        let destination = self.destination;
        let offers: Vec<&str> = self.offers.iter().map(|method| method.name()).collect();
        if self.tried.is_empty() && self.left_out.is_empty() {
            return SshError::NoIdentity {
                host: destination.host.clone(),
                offers: offers.join(", "),
            };
        }
        let mut tried = self.tried.join(", ");
        if tried.is_empty() {
            tried = "none could be tried".into();
        }
        if !self.left_out.is_empty() {
            tried.push_str(&format!("; left out: {}", self.left_out.join(", ")));
        }
        if self.handle.is_closed() {
            tried.push_str(
                "; then it ended the connection, as servers do after some attempts: name the \
                 right key with -i, and --ssh-option IdentitiesOnly=yes",
            );
        }
        SshError::NotAuthenticated {
            user: destination.user.clone(),
            host: destination.host.clone(),
            tried,
            offers: offers.join(", "),
        }
    }
}

fn said(method: Method, from: &PasswordFrom) -> String {
    match from {
        PasswordFrom::Remembered => format!("{} (as before)", method.name()),
        PasswordFrom::Given(place) => format!("{} (of {place})", method.name()),
        PasswordFrom::Typed => format!("{} (typed)", method.name()),
    }
}

fn method_of(method: &MethodKind) -> Option<Method> {
    match method {
        MethodKind::PublicKey => Some(Method::PublicKey),
        MethodKind::KeyboardInteractive => Some(Method::KeyboardInteractive),
        MethodKind::Password => Some(Method::Password),
        _ => None,
    }
}

/// Certificates, then the agent's keys that are among the files, then files that the operator
/// named for this connection, then the agent's others, then the other files. That is OpenSSH's
/// order but for the named files, which an agent full of keys must not push past the machine's
/// limit.
fn candidates(identities: &Identities, mut held: Vec<AgentIdentity>) -> Vec<Candidate> {
    held.retain(|identity| match identity {
        AgentIdentity::PublicKey { key, .. } => identities.may_use(Some(key)),
        AgentIdentity::Certificate { .. } => identities.may_use(None),
    });
    let files: Vec<(usize, Option<PublicKey>)> = (0..identities.len())
        .map(|index| (index, identities.public(index)))
        .filter(|(_, public)| identities.may_use(public.as_ref()))
        .collect();
    let held_key = |identity: &AgentIdentity| match identity {
        AgentIdentity::PublicKey { key, .. } => key.key_data().clone(),
        AgentIdentity::Certificate { certificate, .. } => certificate.public_key().clone(),
    };
    let mut out = Vec::new();
    for (certificate, name) in identities.certificates() {
        let key = certificate.public_key().clone();
        let file = files
            .iter()
            .find(|(_, public)| public.as_ref().is_some_and(|public| *public.key_data() == key));
        let in_agent = held.iter().any(|identity| held_key(identity) == key);
        let key = match (in_agent, file) {
            (true, _) => Key::AgentCertificate(Box::new(certificate)),
            (false, Some((index, _))) => Key::FileCertificate(Box::new(certificate), *index),
            (false, None) => {
                tracing::debug!("{name}: the key to this certificate is not there");
                continue;
            }
        };
        out.push(Candidate { name: format!("certificate {name}"), key });
    }
    let is_file = |identity: &AgentIdentity| {
        let key = held_key(identity);
        files.iter().any(|(_, public)| public.as_ref().is_some_and(|p| *p.key_data() == key))
    };
    let agent_held: Vec<_> = held.iter().map(held_key).collect();
    let (listed, others): (Vec<_>, Vec<_>) = held.into_iter().partition(is_file);
    let by_agent = |identity: AgentIdentity| Candidate {
        name: format!("{} (agent)", identity.comment()),
        key: Key::Agent(identity),
    };
    let not_in_agent = |public: &Option<PublicKey>| {
        !public.as_ref().is_some_and(|public| agent_held.contains(public.key_data()))
    };
    let of = |named: bool| {
        files
            .iter()
            .filter(move |(index, _)| (identities.origin(*index) == Origin::Named) == named)
            .filter(|(_, public)| not_in_agent(public))
            .map(|(index, _)| Candidate { name: identities.name(*index), key: Key::File(*index) })
    };
    out.extend(listed.into_iter().map(by_agent));
    out.extend(of(true));
    if !identities.are_only_files() {
        out.extend(others.into_iter().map(by_agent));
    }
    out.extend(of(false));
    out
}

/// Signs nothing: only asks whether the machine would take a key.
struct Probe;

#[derive(Debug)]
struct WouldTake;

impl From<russh::SendError> for WouldTake {
    fn from(_: russh::SendError) -> Self {
        WouldTake
    }
}

impl Signer for Probe {
    type Error = WouldTake;

    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        _hash: Option<HashAlg>,
        _to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, WouldTake> {
        Err(WouldTake)
    }
}

/// Signs for a certificate with a file's key; RSA with SHA-512.
struct ByFile<'a>(&'a PrivateKey);

enum Unsigned {
    Gone,
    Key(String),
}

impl From<russh::SendError> for Unsigned {
    fn from(_: russh::SendError) -> Self {
        Unsigned::Gone
    }
}

impl Signer for ByFile<'_> {
    type Error = Unsigned;

    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        _hash: Option<HashAlg>,
        mut to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, Unsigned> {
        let signature = signature(self.0, &to_sign).map_err(Unsigned::Key)?;
        // RFC 4252, section 7: the signature is a string behind what is signed.
        to_sign.extend_from_slice(&(signature.len() as u32).to_be_bytes());
        to_sign.extend_from_slice(&signature);
        Ok(to_sign)
    }
}

fn signature(key: &impl SigningKey, data: &[u8]) -> Result<Vec<u8>, String> {
    let signature = key.try_sign(data).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    signature.encode(&mut bytes).map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// Signs for a certificate that the agent does not hold by its key, which it does.
struct PlainKeyOf<'a>(&'a mut Agent);

impl Signer for PlainKeyOf<'_> {
    type Error = AgentAuthError;

    async fn auth_sign(
        &mut self,
        key: &AgentIdentity,
        hash: Option<HashAlg>,
        to_sign: Vec<u8>,
    ) -> Result<Vec<u8>, AgentAuthError> {
        let plain = match key {
            AgentIdentity::Certificate { certificate, comment } => AgentIdentity::PublicKey {
                key: PublicKey::new(certificate.public_key().clone(), ""),
                comment: comment.clone(),
            },
            plain => plain.clone(),
        };
        Ok(self.0.sign_request(&plain, hash, to_sign).await?)
    }
}
