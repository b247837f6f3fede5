//! What is no agent, or another one.

use super::*;

/// `cat` sends our own hello back: not an agent, and nothing of it is left behind.
#[test]
fn what_is_no_agent_is_not_talked_to() {
    let store = store();
    let sshd = Sshd::in_namespace("mount -t tmpfs none /run");
    let key = sshd.key().display().to_string();
    let print = fingerprint(&sshd.host_key("ed25519"));
    let args = ["--agent", "/bin/cat", "--host-key", &print, "-i", &key];
    let said = install(&store, &sshd.destination().to_string(), &args);
    assert_refused(&said, 71, &["can't understand the agent"]);
    // As the machine sees it, where agents are put first. It removes this one when it has ended.
    let run = PathBuf::from(format!("/proc/{}/root/run", sshd.pid()));
    let left = || {
        let entries = std::fs::read_dir(&run).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let began = Instant::now();
    while left() != ["sshd"] {
        assert!(began.elapsed() < Duration::from_secs(20), "left behind: {:?}", left());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What speaks for the agent says hello as one of another protocol version does, and listens: the
/// sentence names the end to update.
#[test]
fn an_agent_of_another_version_is_refused() {
    use keystone_protocol::{frame, version::PROTOCOL_VERSION};
    let store = store();
    let sshd = Sshd::in_namespace("mount -t tmpfs none /run");
    let key = sshd.key().display().to_string();
    let print = fingerprint(&sshd.host_key("ed25519"));
    let agent = sshd.dir.path().join("agent").display().to_string();
    for (theirs, update) in
        [(PROTOCOL_VERSION - 1, "update keystone-agent"), (PROTOCOL_VERSION + 1, "update keystone")]
    {
        let hello = format!(r#"{{"say":"hello","what":{{"protocol":{theirs},"more":[]}}}}"#);
        let framed = frame::encode_control(hello.as_bytes()).unwrap();
        let bytes: String = framed.0.iter().map(|byte| format!("{byte},")).collect();
        let source = format!(
            "#include <unistd.h>\nstatic const unsigned char hello[] = {{ {bytes} }};\n\
             int main(void) {{\n\
             char c;\n\
             if (write(1, hello, sizeof hello) != sizeof hello) return 1;\n\
             while (read(0, &c, 1) > 0) {{ }}\n\
             return 0;\n}}\n"
        );
        let file = format!("{agent}.c");
        std::fs::write(&file, source).unwrap();
        common::run(Command::new(tool("cc", "build-essential")).args(["-o", &agent, &file]));
        let args = ["--agent", &agent, "--host-key", &print, "-i", &key];
        let said = install(&store, &sshd.destination().to_string(), &args);
        let sentence = format!(
            "keystone-agent speaks protocol version {theirs}, keystone speaks {PROTOCOL_VERSION}: \
             {update}"
        );
        assert_refused(&said, 71, &[&sentence]);
        assert!(said.err.lines().any(|line| line.ends_with(update)), "{}", said.err);
    }
}
