//! The resolver against a name server on loopback.

use super::*;
use simple_dns::ResourceRecord;
use simple_dns::rdata::{A, AAAA, CNAME};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

/// Names and what they are: addresses, or another name.
const RECORDS: &[(&str, &[&str])] = &[
    ("cache.example.org", &["192.0.2.1", "2001:db8::1"]),
    ("nas.lab", &["192.0.2.2"]),
    ("alias.example.org", &["Other.Example.Org"]),
    ("other.example.org", &["192.0.2.3"]),
    ("loop.example.org", &["loop2.example.org"]),
    ("loop2.example.org", &["loop.example.org"]),
    ("big.example.org", &["192.0.2.4"]),
    ("slow.example.org", &["192.0.2.5"]),
];

/// A name server by UDP and TCP.
struct Server {
    port: u16,
    /// What it was asked for, and how: one line each.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(ip: IpAddr) -> Server {
        // The same port for both.
        let (tcp, udp) = (0..20)
            .find_map(|_| {
                let tcp = TcpListener::bind((ip, 0)).unwrap();
                let udp = UdpSocket::bind((ip, tcp.local_addr().unwrap().port())).ok()?;
                Some((tcp, udp))
            })
            .unwrap();
        let port = tcp.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let Some(reply) = reply(&buffer[..length], false, &log) else { continue };
                // Somebody else's answer, and one to another question, come first.
                let mut other = reply.clone();
                other[0] ^= 1;
                udp.send_to(&other, from).unwrap();
                udp.send_to(&reply, from).unwrap();
            }
        });
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question).unwrap();
                let reply = reply(&question, true, &log).unwrap();
                stream.write_all(&(reply.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&reply).unwrap();
            }
        });
        Server { port, asked }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn reply(question: &[u8], by_tcp: bool, log: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    let packet = Packet::parse(question).unwrap();
    assert!(packet.has_flags(PacketFlag::RECURSION_DESIRED));
    let asked = packet.questions[0].clone();
    let kind = asked.qtype;
    let mut name = asked.qname.to_string().to_ascii_lowercase();
    let how = if by_tcp { " by tcp" } else { "" };
    log.lock().unwrap().push(format!("{name} {kind:?}{how}"));
    if name == "silent.example.org"
        || (name == "slow.example.org" && log.lock().unwrap().len() == 1)
    {
        return None;
    }
    let mut reply = packet.into_reply();
    if name == "broken.example.org" {
        *reply.rcode_mut() = RCODE::ServerFailure;
        return Some(reply.build_bytes_vec().unwrap());
    }
    if name == "big.example.org" && !by_tcp {
        reply.set_flags(PacketFlag::TRUNCATION);
        return Some(reply.build_bytes_vec().unwrap());
    }
    let mut known = false;
    for _ in 0..3 {
        let Some((own, values)) = RECORDS.iter().find(|(own, _)| *own == name) else { break };
        known = true;
        let mut next = None;
        for value in *values {
            let data = match value.parse::<IpAddr>() {
                Ok(IpAddr::V4(ip)) if kind == QTYPE::TYPE(TYPE::A) => RData::A(A::from(ip)),
                Ok(IpAddr::V6(ip)) if kind == QTYPE::TYPE(TYPE::AAAA) => {
                    RData::AAAA(AAAA::from(ip))
                }
                Ok(_) => continue,
                Err(_) => {
                    next = Some(value.to_ascii_lowercase());
                    RData::CNAME(CNAME(Name::new_unchecked(value)))
                }
            };
            let record = ResourceRecord::new(Name::new_unchecked(own), CLASS::IN, 60, data);
            reply.answers.push(record);
        }
        match next {
            Some(next) => name = next,
            None => break,
        }
    }
    if !known {
        *reply.rcode_mut() = RCODE::NameError;
    }
    Some(reply.build_bytes_vec_compressed().unwrap())
}

/// A machine's files.
fn resolver(resolv_conf: &str, port: u16) -> (tempfile::TempDir, Resolver) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("resolv.conf"), resolv_conf).unwrap();
    std::fs::write(
        dir.path().join("hosts"),
        "127.0.0.1 localhost\n192.0.2.9 Mirror.lab mirror # ours\n2001:db8::9 mirror\n",
    )
    .unwrap();
    let (resolv_conf, hosts) = (dir.path().join("resolv.conf"), dir.path().join("hosts"));
    (dir, Resolver { resolv_conf, hosts, port })
}

const LONG: Duration = Duration::from_secs(20);

fn sorted(resolver: &Resolver, host: &str) -> Vec<String> {
    let mut found: Vec<String> =
        resolver.addresses(host, LONG).unwrap().iter().map(ToString::to_string).collect();
    found.sort();
    found
}

#[test]
fn names_become_addresses() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into());
    let (_dir, resolver) = resolver("nameserver 127.0.0.1\nsearch example.org lab\n", server.port);
    assert_eq!(sorted(&resolver, "cache.example.org"), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(sorted(&resolver, "CACHE.example.org."), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(sorted(&resolver, "alias.example.org"), ["192.0.2.3"]);
    server.asked();
    // Search domains: a name without dots is completed first.
    assert_eq!(sorted(&resolver, "nas"), ["192.0.2.2"]);
    let asked = server.asked();
    assert!(asked[0].starts_with("nas.example.org "), "{asked:?}");
    assert!(asked.iter().all(|line| !line.starts_with("nas ")), "{asked:?}");
    // What does not fit a datagram comes by TCP.
    assert_eq!(sorted(&resolver, "big.example.org"), ["192.0.2.4"]);
    assert!(server.asked().iter().any(|line| line.ends_with("by tcp")));
    // Of hosts(5), without a question.
    assert_eq!(sorted(&resolver, "mirror"), ["192.0.2.9", "2001:db8::9"]);
    assert_eq!(sorted(&resolver, "mirror.LAB"), ["192.0.2.9"]);
    assert_eq!(server.asked(), [""; 0]);
}

#[test]
fn what_has_no_address_is_said() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into());
    let (_dir, resolver) = resolver("nameserver 127.0.0.1\n", server.port);
    let said = |host: &str| resolver.addresses(host, LONG).unwrap_err().to_string();
    for host in ["nobody.example.org", "loop.example.org"] {
        assert_eq!(said(host), format!("no address is known for {host}"));
    }
    assert!(said("broken.example.org").contains("ServerFailure"));
    assert!(said(&"x".repeat(300)).contains("no name"));
}

#[test]
fn other_servers_are_asked_and_waits_are_bounded() {
    let server = Server::start(Ipv4Addr::LOCALHOST.into());
    let options = "options timeout:1 attempts:2\n";
    // Nobody listens at the first.
    let two = format!("nameserver 127.0.0.2\nnameserver 127.0.0.1\n{options}");
    let (_dir, resolver) = self::resolver(&two, server.port);
    assert_eq!(sorted(&resolver, "cache.example.org"), ["192.0.2.1", "2001:db8::1"]);
    server.asked();
    // A question that is lost is asked again.
    assert_eq!(sorted(&resolver, "slow.example.org"), ["192.0.2.5"]);
    let began = Instant::now();
    let error = resolver.addresses("silent.example.org", Duration::from_millis(1500)).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1") && error.to_string().contains("silent"));
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // No file: who listens on this machine, which is nobody.
    let nothing = Resolver { resolv_conf: "/nonexistent".into(), ..resolver };
    let nothing = Resolver { port: 1, ..nothing };
    assert!(nothing.addresses("cache.example.org", LONG).is_err());
}

#[test]
fn name_servers_may_have_ipv6_addresses() {
    let server = Server::start(Ipv6Addr::LOCALHOST.into());
    for conf in ["nameserver ::1\n", "nameserver ::1%lo\n"] {
        let (_dir, resolver) = resolver(conf, server.port);
        assert_eq!(sorted(&resolver, "nas.lab"), ["192.0.2.2"], "{conf}");
    }
}

/// What can be reached comes first.
#[test]
fn order() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = dir.path().join("hosts");
    std::fs::write(&hosts, "::1 both\n127.0.0.1 both\n").unwrap();
    let resolver = Resolver { hosts, ..Resolver::default() };
    let found = resolver.addresses("both", LONG).unwrap();
    assert_eq!(found[0], IpAddr::V4(Ipv4Addr::LOCALHOST));
}
