//! Served by us, asked by clients that others wrote: `nc`, `socat`, and Python's sockets.

use super::common::{PATIENCE, Server, clean, eventually, installed, read_until, run, wharf};
use super::each_back_end;
use std::io::Write;
use std::process::{Command, Output, Stdio};

each_back_end! {
    nc_and_socat_get_their_echo,
    nc_and_socat_read_chargen,
    python_echoes_on_many_links,
    socat_chats_with_python,
    haproxy_names_its_clients,
}

/// What a client prints that is given `input` and then its end.
fn ask(command: &mut Command, input: &[u8]) -> Output {
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().expect("it is installed");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("it ends")
    })
}

fn nc_and_socat_get_their_echo(back_end: &str) {
    let Some(server) = Server::start(back_end, &[]) else { return };
    let (host, port) = ("127.0.0.1", server.addresses[0].port().to_string());
    let input: Vec<u8> =
        (0..100_000).flat_map(|n: u32| format!("line {n}\n").into_bytes()).collect();
    if installed("nc", "-h") {
        let output = ask(Command::new("nc").args(["-N", host, &port]), &input);
        assert!(output.status.success() && output.stdout == input, "{}", output.stdout.len());
    }
    if installed("socat", "-V") {
        let address = format!("TCP:{host}:{port}");
        let output = ask(Command::new("socat").args(["-t", "10", "-", &address]), &input);
        assert!(output.status.success() && output.stdout == input, "{}", output.stdout.len());
    }
    server.stop();
}

fn nc_and_socat_read_chargen(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chargen"]) else { return };
    let port = server.addresses[0].port();
    for (name, option, client) in [
        ("nc", "-h", format!("nc 127.0.0.1 {port}")),
        ("socat", "-V", format!("socat -u TCP:127.0.0.1:{port} -")),
    ] {
        if !installed(name, option) {
            continue;
        }
        let line = format!("{client} 2>&1 | head -n 500 | md5sum");
        let rule = (0..500_usize).flat_map(|n| {
            let ring = (b' '..=b'~').cycle().skip(n % 95).take(72);
            ring.chain(*b"\r\n").collect::<Vec<u8>>()
        });
        let expected = ask(&mut Command::new("md5sum"), &rule.collect::<Vec<u8>>());
        let output = run(&mut clean(Command::new("sh"), &["-c", &line]));
        assert_eq!(output.stdout.as_bytes(), expected.stdout, "{name}: {}", output.stderr);
    }
    server.stop();
}

const MANY_LINKS: &str = "
import random, selectors, socket, sys
random.seed(7)
links, waiting, sent, got = [], selectors.DefaultSelector(), {}, {}
for n in range(200):
    link = socket.create_connection(('127.0.0.1', int(sys.argv[1])), 20)
    sent[link], got[link] = random.randbytes(random.randrange(1, 20000)), b''
    links.append(link)
    waiting.register(link, selectors.EVENT_READ)
for link in links:
    link.sendall(sent[link])
open_links = len(links)
while open_links:
    ready = waiting.select(20)
    assert ready, 'nothing came for 20 s'
    for key, _ in ready:
        link = key.fileobj
        data = link.recv(65536)
        got[link] += data
        if data and len(got[link]) == len(sent[link]):
            link.shutdown(socket.SHUT_WR)
        if not data:
            assert got[link] == sent[link]
            waiting.unregister(link)
            open_links -= 1
print('well')
";

fn python_echoes_on_many_links(back_end: &str) {
    if !installed("python3", "--version") {
        return;
    }
    let Some(server) = Server::start(back_end, &[]) else { return };
    let port = server.addresses[0].port().to_string();
    let output = run(&mut clean(Command::new("python3"), &["-c", MANY_LINKS, &port]));
    assert_eq!(output.stdout, "well\n", "{}", output.stderr);
    server.stop();
}

const PYTHON_CHATS: &str = "
import socket, subprocess, sys
port = int(sys.argv[1])
ann = socket.create_connection(('127.0.0.1', port), 20)
said = ann.makefile('rb')
said.readline(), said.readline()
bob = subprocess.Popen(['socat', '-', f'TCP:127.0.0.1:{port},crlf'],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
bob.stdout.readline(), bob.stdout.readline()
bob.stdin.write(b'hello from socat\\n')
bob.stdin.flush()
assert said.readline() == b'* guest-2 is here\\r\\n'
assert said.readline() == b'guest-2: hello from socat\\r\\n'
ann.sendall(b'hello from python\\n')
assert bob.stdout.readline() == b'* guest-1 is here\\n'
assert bob.stdout.readline() == b'guest-1: hello from python\\n'
bob.stdin.write(b'/quit\\n')
bob.stdin.flush()
assert bob.stdout.read() == b'* goodbye, guest-2\\n'
assert bob.wait(20) == 0
assert said.readline() == b'* guest-2 has left\\r\\n'
print('well')
";

fn socat_chats_with_python(back_end: &str) {
    if !installed("python3", "--version") || !installed("socat", "-V") {
        return;
    }
    let Some(server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let port = server.addresses[0].port().to_string();
    let output = run(&mut clean(Command::new("python3"), &["-c", PYTHON_CHATS, &port]));
    assert_eq!(output.stdout, "well\n", "{}", output.stderr);
    server.stop();
}

/// HAProxy in front of the server, with either version of the header.
fn haproxy_names_its_clients(back_end: &str) {
    if !installed("haproxy", "-v") {
        return;
    }
    let listen = ["serve", "--backend", back_end, "--listen", "127.0.0.1:0"];
    let mut program = wharf(&[&listen[..], &["--proxy-from", "127.0.0.0/8"]].concat());
    let Some(mut server) = Server::spawn(program.env("WHARF_LOG", "debug")) else { return };
    let port = server.addresses[0].port();
    for version in ["send-proxy", "send-proxy-v2"] {
        // The port is free until HAProxy has it; another process could only take it in between.
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let front = free.local_addr().expect("it is bound");
        drop(free);
        let config = format!(
            "defaults\n mode tcp\n timeout connect 9s\n timeout client 9s\n timeout server 9s\n\
             listen front\n bind {front}\n server back 127.0.0.1:{port} {version}\n"
        );
        let name = format!("wharf-{}-{back_end}-{version}.cfg", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, config).expect("a file");
        let mut haproxy = Command::new("haproxy")
            .args(["-db", "-q", "-f"])
            .arg(&path)
            .stdin(Stdio::null())
            .spawn()
            .expect("it is installed");
        let mut link = None;
        eventually(
            || {
                link = std::net::TcpStream::connect(front).ok();
                link.is_some()
            },
            "HAProxy listens",
        );
        let mut link = link.expect("it is connected");
        link.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        link.write_all(b"through a proxy\n").expect("it reads");
        assert_eq!(read_until(&mut link, "\n"), "through a proxy\n");
        let client = format!("peer={}", link.local_addr().expect("it is connected"));
        let opened = server.wait_for_line(&client).expect("the server runs");
        assert!(opened.contains("link opened"), "{opened}");
        drop(link);
        // An error means that it has ended already.
        let _ended = haproxy.kill();
        haproxy.wait().expect("it is our child");
        std::fs::remove_file(path).expect("ours");
    }
    server.stop();
}
