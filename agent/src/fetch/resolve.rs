//! From host names to addresses.
//!
//! The agent is a static executable, in which the C library's `getaddrinfo` can't load the modules
//! that it works by. So this asks the name servers of `/etc/resolv.conf` itself, after
//! `/etc/hosts`: as resolv.conf(5) has it, with search domains, `ndots`, `timeout` and `attempts`.
//! Messages are simple-dns's, the file's syntax is resolv-conf's.

use keystone_fetch::Resolve;
use nix::net::if_::if_nametoindex;
use resolv_conf::{Config, ScopedIp};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Where name servers listen.
const PORT: u16 = 53;
/// The longest answer by UDP: no longer one is asked for, and what is cut off is asked for by TCP.
const DATAGRAM: usize = 4096;

/// Resolves names as this machine's files say.
#[derive(Debug)]
pub struct Resolver {
    /// `/etc/resolv.conf`, which may be changed at any time.
    pub resolv_conf: PathBuf,
    /// `/etc/hosts`.
    pub hosts: PathBuf,
    /// Where name servers listen.
    pub port: u16,
}

impl Default for Resolver {
    fn default() -> Self {
        let (resolv_conf, hosts) = ("/etc/resolv.conf".into(), "/etc/hosts".into());
        Resolver { resolv_conf, hosts, port: PORT }
    }
}

impl Resolve for Resolver {
    fn addresses(&self, host: &str, bound: Duration) -> io::Result<Vec<IpAddr>> {
        let deadline = Instant::now() + bound;
        // A file that is not there says nothing, which has a meaning in both cases.
        let hosts = std::fs::read_to_string(&self.hosts).unwrap_or_default();
        let mut found = from_hosts(&hosts, host);
        if found.is_empty() {
            let text = std::fs::read(&self.resolv_conf).unwrap_or_default();
            let (config, _) = Config::parse_with_errors(&text);
            for name in names(host, &config) {
                found = self.ask(&name, &config, deadline)?;
                if !found.is_empty() {
                    break;
                }
            }
        }
        if found.is_empty() {
            let what = format!("no address is known for {host}");
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        // Stable: those that can be reached, IPv4 first, which is seldom half configured.
        found.sort_by_key(|ip| (!has_route(*ip), ip.is_ipv6()));
        Ok(found)
    }
}

/// Addresses by hosts(5).
fn from_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let line = |line: &str| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host.trim_end_matches('.'))).then_some(ip)
    };
    text.lines().filter_map(line).collect()
}

/// The full names that a name may mean, in order: resolv.conf(5), `search` and `ndots`.
fn names(host: &str, config: &Config) -> Vec<String> {
    if let Some(absolute) = host.strip_suffix('.') {
        return vec![absolute.to_owned()];
    }
    let as_it_is = host.bytes().filter(|b| *b == b'.').count() >= config.ndots as usize;
    let domains = config.get_last_search_or_domain().map(|domain| domain.trim_end_matches('.'));
    let mut names: Vec<String> = domains
        .filter(|domain| !domain.is_empty())
        .map(|domain| format!("{host}.{domain}"))
        .collect();
    names.insert(if as_it_is { 0 } else { names.len() }, host.to_owned());
    names
}

/// Whether a packet to this address has a way to go. Nothing is sent.
fn has_route(ip: IpAddr) -> bool {
    UdpSocket::bind((unspecified(ip), 0)).and_then(|socket| socket.connect((ip, PORT))).is_ok()
}

fn unspecified(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Resolver {
    /// The addresses of a full name; none if there is no such name.
    fn ask(&self, name: &str, config: &Config, deadline: Instant) -> io::Result<Vec<IpAddr>> {
        let mut found = self.ask_for(name, TYPE::A, config, deadline)?;
        match self.ask_for(name, TYPE::AAAA, config, deadline) {
            Ok(more) => found.extend(more),
            // There are name servers that don't answer that.
            Err(error) if found.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(found)
    }

    /// Asks one name server after the other, again and again.
    fn ask_for(
        &self,
        name: &str,
        kind: TYPE,
        config: &Config,
        deadline: Instant,
    ) -> io::Result<Vec<IpAddr>> {
        let servers = config.get_nameservers_or_local();
        let mut failure = io::Error::other("there is no name server");
        for server in servers.iter().cycle().take(servers.len() * config.attempts.max(1) as usize) {
            let left = deadline.saturating_duration_since(Instant::now());
            let bound = left.min(Duration::from_secs(config.timeout.max(1).into()));
            if bound.is_zero() {
                break;
            }
            let asked = self.address(server).and_then(|at| query(at, name, kind, bound));
            match asked {
                Ok(found) => return Ok(found),
                Err(error) => {
                    let why = match error.kind() {
                        io::ErrorKind::WouldBlock => "it does not answer".to_owned(),
                        _ => error.to_string(),
                    };
                    failure = io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("the name server {server} can't be asked for {name}: {why}"),
                    );
                }
            }
        }
        Err(failure)
    }

    fn address(&self, server: &ScopedIp) -> io::Result<SocketAddr> {
        Ok(match server {
            ScopedIp::V4(ip) => (*ip, self.port).into(),
            ScopedIp::V6(ip, None) => (*ip, self.port).into(),
            ScopedIp::V6(ip, Some(scope)) => {
                let index =
                    scope.parse().ok().map_or_else(|| if_nametoindex(scope.as_str()), Ok)?;
                SocketAddrV6::new(*ip, self.port, 0, index).into()
            }
        })
    }
}

/// Asks one name server for one kind of address; none if it says that there is none.
fn query(server: SocketAddr, name: &str, kind: TYPE, bound: Duration) -> io::Result<Vec<IpAddr>> {
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is no name"));
    let mut message = Packet::new_query(rand::random());
    message.set_flags(PacketFlag::RECURSION_DESIRED);
    let asked = Name::new(name).map_err(invalid)?;
    message.questions.push(Question::new(asked, kind.into(), QCLASS::CLASS(CLASS::IN), false));
    let question = message.build_bytes_vec().map_err(invalid)?;
    let began = Instant::now();
    let socket = UdpSocket::bind((unspecified(server.ip()), 0))?;
    // From nobody else anything is taken.
    socket.connect(server)?;
    socket.send(&question)?;
    let mut buffer = [0; DATAGRAM];
    loop {
        let left = bound.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        match answer(&buffer[..length], &message, name, kind) {
            Some(Answer::Cut) => break,
            Some(Answer::Whole(found)) => return found,
            // Not to this question.
            None if began.elapsed() >= bound => return Err(io::ErrorKind::WouldBlock.into()),
            None => {}
        }
    }
    let answered = by_tcp(server, &question, bound)?;
    match answer(&answered, &message, name, kind) {
        Some(Answer::Whole(found)) => found,
        _ => Err(io::Error::other("its answer by TCP can't be used")),
    }
}

/// RFC 1035, 4.2.2: the length goes before the message.
fn by_tcp(server: SocketAddr, question: &[u8], bound: Duration) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, bound)?;
    stream.set_read_timeout(Some(bound))?;
    stream.set_write_timeout(Some(bound))?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], question].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

enum Answer {
    /// It does not fit a datagram.
    Cut,
    Whole(io::Result<Vec<IpAddr>>),
}

/// What a message says, if it is an answer to this question.
fn answer(bytes: &[u8], to: &Packet<'_>, name: &str, kind: TYPE) -> Option<Answer> {
    let packet = Packet::parse(bytes).ok()?;
    let asked = packet.questions.first()?;
    let fits = packet.id() == to.id()
        && packet.has_flags(PacketFlag::RESPONSE)
        && packet.questions.len() == 1
        && same(&asked.qname, name)
        && asked.qtype == QTYPE::TYPE(kind);
    if !fits {
        return None;
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Some(Answer::Cut);
    }
    Some(Answer::Whole(match packet.rcode() {
        RCODE::NoError => Ok(addresses(&packet, name)),
        RCODE::NameError => Ok(Vec::new()),
        other => Err(io::Error::other(format!("it answers {other:?}"))),
    }))
}

/// The addresses of a name, or of the one that it is another name of, and so on.
fn addresses(packet: &Packet<'_>, name: &str) -> Vec<IpAddr> {
    let mut name = name.to_owned();
    // No more links of a chain than there are records.
    for _ in 0..=packet.answers.len() {
        let of_name = || packet.answers.iter().filter(|record| same(&record.name, &name));
        let address = |data: &RData<'_>| match data {
            RData::A(a) => Some(IpAddr::from(Ipv4Addr::from(a.address))),
            RData::AAAA(a) => Some(IpAddr::from(Ipv6Addr::from(a.address))),
            _ => None,
        };
        let found: Vec<IpAddr> = of_name().filter_map(|record| address(&record.rdata)).collect();
        let next = of_name().find_map(|record| match &record.rdata {
            RData::CNAME(other) => Some(other.0.to_string()),
            _ => None,
        });
        match next.filter(|_| found.is_empty()) {
            Some(next) => name = next,
            None => return found,
        }
    }
    Vec::new()
}

/// Case does not count: RFC 4343.
fn same(name: &Name<'_>, text: &str) -> bool {
    name.to_string().trim_end_matches('.').eq_ignore_ascii_case(text.trim_end_matches('.'))
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
