//! What each app answers, over real sockets, to clients that are std's.

use super::common::{Server, read_until, wharf};
use super::each_back_end;
use super::snapshot::matches;
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

each_back_end! {
    echo_gives_back_what_it_gets,
    discard_swallows_and_answers_nothing,
    chargen_sends_the_pattern_of_the_rfc,
    chargen_fits_buffers_and_outputs_of_any_size,
    chargen_waits_for_a_client_that_does_not_read,
    chat_is_a_conversation,
    chat_ends_a_line_without_end,
    chat_strips_what_commands_a_terminal,
    chat_does_not_say_what_telnet_negotiates,
    chat_cannot_be_given_a_taken_or_ugly_name,
    chat_does_not_tell_of_checks_that_connect_and_close,
    chat_does_not_say_a_proxys_header,
    chat_tells_who_speaks_that_a_line_was_too_long_to_send,
    chat_tells_who_speaks_that_the_server_is_stopping,
    several_addresses_are_served,
}

fn echo_gives_back_what_it_gets(back_end: &str) {
    let Some(server) = Server::start(back_end, &[]) else { return };
    let mut link = server.connect();
    let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut writer = link.try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&sent).expect("it reads");
            writer.shutdown(Shutdown::Write).expect("open");
        });
        let mut received = Vec::new();
        link.read_to_end(&mut received).expect("it answers and closes");
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    });
    server.stop();
}

fn discard_swallows_and_answers_nothing(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "discard"]) else { return };
    let mut link = server.connect();
    link.write_all(&vec![7; 5_000_000]).expect("it reads");
    link.shutdown(Shutdown::Write).expect("open");
    let mut received = Vec::new();
    assert_eq!(link.read_to_end(&mut received).expect("the stream ends"), 0);
    server.stop();
}

fn chargen_sends_the_pattern_of_the_rfc(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chargen"]) else { return };
    let mut link = server.connect();
    link.write_all(b"this is thrown away").expect("it reads");
    let first_ten = [
        r##" !"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefg"##,
        r##"!"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefgh"##,
        r##""#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghi"##,
        r##"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghij"##,
        r##"$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijk"##,
        r##"%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijkl"##,
        r##"&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklm"##,
        r##"'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmn"##,
        r##"()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmno"##,
        r##")*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\]^_`abcdefghijklmnop"##,
    ];
    for line in first_ten {
        assert_eq!(read_until(&mut link, "\r\n"), format!("{line}\r\n"));
    }
    // The rest of 10,000 lines by the rule that the RFC gives.
    let mut lines = vec![0; 74 * 9_990];
    link.read_exact(&mut lines).expect("it goes on");
    for (number, line) in (10..).zip(lines.chunks(74)) {
        let ring = (b' '..=b'~').cycle().skip(number % 95).take(72);
        assert!(line.iter().copied().eq(ring.chain(*b"\r\n")), "line {number}");
    }
    drop(link);
    server.stop();
}

fn chargen_fits_buffers_and_outputs_of_any_size(back_end: &str) {
    let few = ["--app", "chargen", "--links", "8", "--shards", "1"];
    for sizes in [
        &["--buffer-size", "64", "--send-queue", "128"][..],
        &["--buffer-size", "100", "--send-queue", "1MiB"],
        &["--buffer-size", "1MiB", "--send-queue", "2MiB", "--buffers", "40"],
        &["--grant", "64KiB"],
    ] {
        let Some(server) = Server::start(back_end, &[&few, sizes].concat()) else { return };
        let mut link = server.connect();
        let mut lines = vec![0; 74 * 1_000];
        link.read_exact(&mut lines).expect("it goes on");
        for (number, line) in lines.chunks(74).enumerate() {
            let ring = (b' '..=b'~').cycle().skip(number % 95).take(72);
            assert!(line.iter().copied().eq(ring.chain(*b"\r\n")), "{sizes:?}, line {number}");
        }
        drop(link);
        server.stop();
    }
}

fn chargen_waits_for_a_client_that_does_not_read(back_end: &str) {
    let small = ["--app", "chargen", "--links", "8", "--buffers", "40", "--shards", "1"];
    let short = ["--input-bytes", "8KiB", "--send-queue", "16KiB"];
    let small = [&small[..], &short].concat();
    let Some(server) = Server::start(back_end, &small) else { return };
    let lazy: Vec<TcpStream> = (0..4).map(|_| server.connect()).collect();
    let mut busy = server.connect();
    let mut lines = vec![0; 74 * 20_000];
    busy.read_exact(&mut lines).expect("the others do not hold it up");
    for mut link in lazy {
        // What they left is still there, from its first byte on.
        assert!(read_until(&mut link, "\r\n").starts_with(" !\"#$"));
    }
    drop(busy);
    server.stop();
}

/// A client of chat that has read its welcome.
fn guest(server: &Server) -> TcpStream {
    let mut link = server.connect();
    // The welcome.
    read_until(&mut link, "\r\n");
    read_until(&mut link, "\r\n");
    link
}

fn say(link: &mut TcpStream, line: &str) {
    link.write_all(line.as_bytes()).expect("it reads");
}

/// What chat's clients say and hear, each line after the name of the client that did so.
struct Conversation {
    server: Server,
    guests: Vec<TcpStream>,
    text: String,
}

impl Conversation {
    fn start(back_end: &str) -> Option<Self> {
        let server = Server::start(back_end, &["--app", "chat"])?;
        Some(Self { server, guests: Vec::new(), text: String::new() })
    }

    /// One more client, which hears two lines, and all others none.
    fn join(&mut self) {
        self.guests.push(self.server.connect());
        let number = self.guests.len();
        self.hear(number);
        self.hear(number);
    }

    fn say(&mut self, guest: usize, text: &str) {
        say(&mut self.guests[guest - 1], text);
        self.text += &format!("{guest} > {}\n", text.escape_debug());
    }

    /// Waits for a line.
    fn hear(&mut self, guest: usize) {
        let line = read_until(&mut self.guests[guest - 1], "\r\n");
        self.text += &format!("{guest} < {}\n", line.strip_suffix("\r\n").expect("its end"));
    }

    /// Waits for the end of a client's stream.
    fn hear_the_end(&mut self, guest: usize) {
        let len = self.guests[guest - 1].read(&mut [0]).expect("the stream ends");
        assert_eq!(len, 0, "{}", self.text);
        self.text += &format!("{guest} < (end)\n");
    }

    fn matches(self, name: &str) {
        matches(name, &self.text);
        drop(self.guests);
        self.server.stop();
    }
}

fn chat_is_a_conversation(back_end: &str) {
    let Some(mut chat) = Conversation::start(back_end) else { return };
    (0..3).for_each(|_| chat.join());
    // LF and CRLF, lines in pieces, several lines at once.
    chat.say(1, "/nick 李雷\r\n");
    (1..=3).for_each(|guest| chat.hear(guest));
    chat.say(1, "hel");
    chat.say(1, "lo\nhow are you?\n");
    for guest in [2, 3] {
        chat.hear(guest);
        chat.hear(guest);
    }
    for command in ["/who\n", "/dance\n"] {
        chat.say(2, command);
        chat.hear(2);
    }
    // What was said before the end is heard before it, and nothing after.
    chat.say(2, "bye\n/quit\nnot heard\n");
    chat.hear(2);
    chat.hear_the_end(2);
    for guest in [1, 3] {
        (0..3).for_each(|_| chat.hear(guest));
    }
    chat.say(3, "so long\n");
    chat.hear(1);
    chat.hear(1);
    drop(chat.guests.pop());
    chat.hear(1);
    chat.say(1, "/who\n");
    chat.hear(1);
    chat.matches("chat");
}

fn chat_ends_a_line_without_end(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let mut link = guest(&server);
    for end in ["\n", "\r\n"] {
        say(&mut link, &"x".repeat(1_024));
        say(&mut link, end);
    }
    say(&mut link, "/who\n");
    let mut heard = read_until(&mut link, "\r\n");
    say(&mut link, &"x".repeat(1_025));
    link.read_to_string(&mut heard).expect("the stream ends");
    matches("chat-line-too-long", &heard);
    server.stop();
}

fn chat_strips_what_commands_a_terminal(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let (mut ann, mut bob) = (guest(&server), guest(&server));
    bob.write_all(b"\x1b]0;title\x07\x1b[2Jhi\xfe \xe2\x80\xaethere\r\n").expect("it reads");
    assert_eq!(read_until(&mut ann, "\r\n"), "* guest-2 is here\r\n");
    assert_eq!(read_until(&mut ann, "\r\n"), "guest-2: ]0;title[2Jhi\u{FFFD} there\r\n");
    drop((ann, bob));
    server.stop();
}

/// As telnet begins: WILL and DO, the terminal's size and name, which have bytes of text in them.
fn chat_does_not_say_what_telnet_negotiates(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let (mut ann, mut bob) = (guest(&server), guest(&server));
    let options = b"\xff\xfb\x1f\xff\xfd\x03\xff\xfa\x1f\0P\0\x0a\xff\xf0";
    let terminal = b"\xff\xfa\x18\0xterm\xff\xf0\xff\xf1";
    for piece in [&options[..], terminal, b"h\xff\xf1i\r\n"] {
        bob.write_all(piece).expect("it reads");
    }
    assert_eq!(read_until(&mut ann, "\r\n"), "* guest-2 is here\r\n");
    assert_eq!(read_until(&mut ann, "\r\n"), "guest-2: hi\r\n");
    drop((ann, bob));
    server.stop();
}

fn chat_cannot_be_given_a_taken_or_ugly_name(back_end: &str) {
    let Some(mut chat) = Conversation::start(back_end) else { return };
    (0..2).for_each(|_| chat.join());
    chat.say(1, "/nick Ann\n");
    chat.hear(1);
    chat.hear(2);
    let names = [
        "ANN",
        // A Cyrillic A.
        "\u{410}nn",
        "",
        "two words",
        "123456789012345678901",
        "*",
        "/who",
        "-",
        // Blank, and almost ASCII.
        "\u{3164}",
        "\u{ff21}nn",
    ];
    for name in names {
        chat.say(2, &format!("/nick {name}\n"));
        chat.hear(2);
    }
    chat.matches("chat-names");
}

/// Nor of those that only ask who is there, or leave again.
fn chat_does_not_tell_of_checks_that_connect_and_close(back_end: &str) {
    let Some(mut chat) = Conversation::start(back_end) else { return };
    chat.join();
    for _ in 0..3 {
        drop(chat.server.connect());
        let mut check = guest(&chat.server);
        say(&mut check, "/who\n/quit\n");
        let mut heard = String::new();
        check.read_to_string(&mut heard).expect("the stream ends");
    }
    chat.join();
    chat.say(2, "hello\n");
    chat.hear(1);
    chat.hear(1);
    assert!(chat.text.ends_with(": hello\n"), "{}", chat.text);
    drop(chat.guests);
    chat.server.stop();
}

fn chat_does_not_say_a_proxys_header(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let mut ann = guest(&server);
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb";
    let v1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
    for header in [&v1[..], &v2[..]] {
        let mut link = guest(&server);
        link.write_all(&[header, b"hello\r\n"].concat()).expect("it reads");
        let mut heard = String::new();
        link.read_to_string(&mut heard).expect("the stream ends");
        matches("chat-proxy", &heard);
    }
    // Later in a conversation it is a line like any other.
    let mut bob = guest(&server);
    say(&mut bob, "hello\nPROXY is a word\n");
    for expected in [" is here\r\n", ": hello\r\n", ": PROXY is a word\r\n"] {
        let heard = read_until(&mut ann, "\r\n");
        assert!(heard.ends_with(expected), "{heard:?}");
    }
    drop((ann, bob));
    server.stop();

    let arguments = ["--app", "chat", "--proxy-from", "10.0.0.0/8,127.0.0.1"];
    let Some(server) = Server::start(back_end, &arguments) else { return };
    for header in [&v1[..], &v2[..]] {
        let mut link = server.connect();
        link.write_all(&[header, b"/quit\r\n"].concat()).expect("it reads");
        let mut heard = String::new();
        link.read_to_string(&mut heard).expect("the stream ends");
        assert!(heard.starts_with("* welcome") && heard.contains("* goodbye"), "{heard:?}");
    }
    server.stop();
}

fn chat_tells_who_speaks_that_a_line_was_too_long_to_send(back_end: &str) {
    let few = ["--app", "chat", "--links", "4", "--shards", "1"];
    let small = ["--buffer-size", "256", "--send-queue", "512", "--input-bytes", "512"];
    let Some(server) = Server::start(back_end, &[&few[..], &small].concat()) else { return };
    let (ann, mut bob) = (guest(&server), guest(&server));
    say(&mut bob, &("x".repeat(1_000) + "\n"));
    matches("chat-too-large", &read_until(&mut bob, "\r\n"));
    drop((ann, bob));
    server.stop();
}

/// Lines wait for a client that does not read its answers, until the server is stopping.
fn chat_tells_who_speaks_that_the_server_is_stopping(back_end: &str) {
    let Some(mut server) = Server::start(back_end, &["--app", "chat"]) else { return };
    let mut link = guest(&server);
    link.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let lines = "/who\nhello\n".repeat(1_000);
    while link.write_all(lines.as_bytes()).is_ok() {}
    server.signal(Signal::TERM);
    server.wait_for_line(" stopping on ").expect("it begins to drain");
    let mut heard = String::new();
    link.read_to_string(&mut heard).expect("the stream ends");
    let last = heard.lines().rfind(|line| !line.contains(" here: ")).unwrap_or_default();
    matches("chat-stopping", &format!("{last}\n"));
    let (status, _) = server.wait();
    assert_eq!(status.code(), Some(0), "{:#?}", server.log);
}

fn several_addresses_are_served(back_end: &str) {
    let Some(server) = Server::start(back_end, &["--listen", "[::1]:0"]) else { return };
    assert_eq!(server.addresses.len(), 2);
    assert!(server.addresses[1].is_ipv6());
    server.addresses.iter().copied().for_each(echoes);
    server.stop();

    let dual = ["serve", "--backend", back_end, "--listen", "[::]:0", "--dual-stack"];
    let Some(server) = Server::spawn(&mut wharf(&dual)) else { return };
    let port = server.addresses[0].port();
    echoes((Ipv4Addr::LOCALHOST, port).into());
    echoes((Ipv6Addr::LOCALHOST, port).into());
    server.stop();
}

fn echoes(address: SocketAddr) {
    let mut link = TcpStream::connect(address).expect("it listens there");
    link.write_all(b"hello").expect("it reads");
    let mut answer = [0; 5];
    link.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"hello");
}
