//! Served by us, asked by clients that others wrote: `nc`, `socat`, and Python's sockets.

use super::common::{Server, clean, installed, run};
use super::each_back_end;
use std::io::Write;
use std::process::{Command, Output, Stdio};

each_back_end! {
    nc_and_socat_get_their_echo,
    nc_and_socat_read_chargen,
    python_echoes_on_many_links,
    socat_chats_with_python,
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
